import os
import stat
from pathlib import Path

import psycopg
import pytest

from worker.local.postgres import Postgres, remove_server, start_server

pytestmark = pytest.mark.integration  # Postgres


def test_data_port_and_password_stay_from_start_to_start(tmp_path: Path) -> None:
    above = [(parent, parent.stat().st_mode) for parent in tmp_path.parents]
    first = start_server(tmp_path / "pg")
    try:
        with psycopg.connect(first.url()) as connection:
            connection.execute("CREATE TABLE kept (x int)")
            assert connection.info.server_version >= 180000
        assert start_server(tmp_path / "pg") == first, "a running server is taken over"
        first.stop("immediate")
        again = start_server(tmp_path / "pg")
        assert again == first
        with psycopg.connect(again.url()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    finally:
        first.stop("immediate")
        remove_server(tmp_path / "pg")
    assert [(parent, parent.stat().st_mode) for parent in tmp_path.parents] == above
    assert not first.data.exists()


def test_nobody_gets_in_without_the_password(postgres: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url().replace(postgres.password, "guess"))
    assert stat.S_IMODE(postgres.data.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert postgres.data.stat().st_uid != 0
