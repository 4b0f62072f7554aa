"""Where a product's files lie: `{shop}/{product}` or `{shop}/{product}/{variant}`, and an ending for each file."""

import string

# What Supabase Storage, S3 and every file system take, and what needs no escaping in an address. A dot is kept in a
# shop's name alone: in an id it could look like another file's ending.
_ID = frozenset(string.ascii_letters + string.digits + "_-")
_SHOP = _ID | {"."}


def stem(shop: str, product_id: str | None = None, variant_id: str | None = None) -> str:
    """The path of the product's or the variant's files without their ending; of a shop alone, its folder."""
    ids = [_segment(last_part(gid), _ID) for gid in (product_id, variant_id) if gid]
    # A leading dot would hide the folder or, doubled, climb out of it.
    first = "=2E" + _segment(shop[1:], _SHOP) if shop.startswith(".") else _segment(shop, _SHOP)
    return "/".join([first, *ids])


def last_part(gid: str) -> str:
    """Return the part of an id that people know: `gid://shopify/Product/123` → `123`; a plain id as it is."""
    return gid.rpartition("/")[2] or gid if gid.startswith("gid://") else gid


def _segment(text: str, allowed: frozenset[str]) -> str:
    """What is not allowed becomes `=` and its bytes in hex, so different names never share a path."""
    return "".join(c if c in allowed else "".join(f"={byte:02X}" for byte in c.encode()) for c in text)
