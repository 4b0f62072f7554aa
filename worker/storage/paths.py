"""Paths of a product's files: `{shop}/{product}` or `{shop}/{product}/{variant}`, and an ending for each file.

Those are the published files. A version's files lie below them: `{stem}/v.{digest}` and an ending. An id never holds a dot, so
no product and no variant has such a path.
"""

import hashlib
import json
import re
import string
from collections.abc import Mapping

# Characters that Supabase Storage, S3 and each file system allow, and that need no escaping in a URL. A dot is kept only in
# a shop's name: in an id it could look like the ending of another file.
_ID = frozenset(string.ascii_letters + string.digits + "_-")
_SHOP = _ID | {"."}

# Bytes of one part of a path. File systems take 255, of which the endings and a draft's name need some; a bucket's key may
# have 1,024 in all.
LONGEST = 180
_DIGEST = 32  # hex digits of a SHA-256: of the name that ends a shortened part, and of a version

_VERSION = re.compile(r"(v\.[0-9a-f]{32})\.")


def stem(shop: str, product_id: str | None = None, variant_id: str | None = None) -> str:
    """Return the path of a product's or variant's files, without an ending. For a shop alone it is the shop's folder."""
    ids = [_segment(last_part(gid), _ID) for gid in (product_id, variant_id) if gid]
    # A leading dot would hide the folder; two dots would leave it.
    first = "=2E" + _segment(shop[1:], _SHOP) if shop.startswith(".") else _segment(shop, _SHOP)
    return "/".join([first, *ids])


def version_digest(files: Mapping[str, str]) -> str:
    """Return the digest of a version: of its files' endings, and the sha256 of each in hex."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:_DIGEST]


def version_stem(stem: str, digest: str) -> str:
    """Return the path of a version's files, without an ending. What lies there never changes."""
    return f"{stem}/v.{digest}"


def is_named(file: str, name: str) -> bool:
    """True if a file's name is the last part of a stem with an ending. A variant that is called `v` has no file `v.{digest}.…`."""
    version = _VERSION.match(file)
    return version[1] == name if version else file.startswith(f"{name}.")


def last_part(gid: str) -> str:
    """Return the part of an id that people know: `gid://shopify/Product/123` → `123`; a plain id as it is."""
    return gid.rpartition("/")[2] or gid if gid.startswith("gid://") else gid


def _segment(text: str, allowed: frozenset[str]) -> str:
    """Replace each other character by `=` and its bytes in hex, so that different names never share a path.

    A result longer than LONGEST is cut and ends in `==` and a digest of the whole name; no escape holds `==`.
    """
    escaped = "".join(c if c in allowed else "".join(f"={byte:02X}" for byte in c.encode()) for c in text)
    if len(escaped) <= LONGEST:
        return escaped
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
    return f"{escaped[: LONGEST - _DIGEST - 2]}=={digest}"
