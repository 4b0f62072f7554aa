"""Paths of a product's files: `{shop}/{product}` or `{shop}/{product}/{variant}`, and an ending for each file."""

import hashlib
import string

# Characters that Supabase Storage, S3 and each file system allow, and that need no escaping in a URL. A dot is kept only in
# a shop's name: in an id it could look like the ending of another file.
_ID = frozenset(string.ascii_letters + string.digits + "_-")
_SHOP = _ID | {"."}

# Bytes of one part of a path. File systems take 255, of which the endings and a draft's name need some; a bucket's key may
# have 1,024 in all.
LONGEST = 180
_DIGEST = 32  # hex digits of the name's SHA-256 that end a shortened part


def stem(shop: str, product_id: str | None = None, variant_id: str | None = None) -> str:
    """Return the path of a product's or variant's files, without an ending. For a shop alone it is the shop's folder."""
    ids = [_segment(last_part(gid), _ID) for gid in (product_id, variant_id) if gid]
    # A leading dot would hide the folder; two dots would leave it.
    first = "=2E" + _segment(shop[1:], _SHOP) if shop.startswith(".") else _segment(shop, _SHOP)
    return "/".join([first, *ids])


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
