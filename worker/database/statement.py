"""A statement that a connection runs again and again, without a cursor of the driver.

For a claim and a settlement, to make a cursor, and to find out anew how to send such parameters and how to read such columns,
took a third of all the time in this process.
"""

import re
from typing import Any

import psycopg
from psycopg import generators
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import ExecStatus, Format


class Statement:
    """A statement with parameters `%(name)s`. It keeps what it has learned about them and about its columns."""

    def __init__(self, text: str, adapters: AdaptersMap) -> None:
        self._names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
        numbers = {name: f"${n}" for n, name in enumerate(self._names, start=1)}
        self._text = re.sub(r"%(?:%|\((\w+)\)s)", lambda found: numbers.get(found[1], "%"), text).encode()
        self._formats = [PyFormat.AUTO] * len(self._names)
        self._values = Transformer(adapters)
        self._rows = Transformer(adapters)

    def run(self, connection: psycopg.Connection[Any], parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """Run it and return its rows. Raises: psycopg.Error."""
        values = self._values
        sent = values.dump_sequence([parameters[name] for name in self._names], self._formats)
        # In the binary format: worker/database/session.py.
        connection.pgconn.send_query_params(self._text, sent, values.types, values.formats, Format.BINARY)
        result = connection.wait(generators.execute(connection.pgconn))[-1]
        if result.status not in {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}:
            raise psycopg.errors.error_from_result(result)
        self._rows.set_pgresult(result)
        columns = [(result.fname(n) or b"").decode() for n in range(result.nfields)]
        rows = self._rows.load_rows(0, result.ntuples, tuple)
        return [dict(zip(columns, row, strict=True)) for row in rows]
