"""What somebody has typed or pasted into the one field above the list, as a filter.

A merchant's e-mail names a product by its gid, by its address in the admin or in the shop, by its handle or by its title. An
operator pastes an id, a host or an error code. What can only be one thing is taken as that. Of what can be several, those are
kept that some job has.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy.engine import Engine

from worker import engines
from worker.core.errors import ERRORS
from worker.jobs import hosts
from worker.jobs.filters import LONGEST, BadFilter, Filter
from worker.jobs.search import Search

Fields = Mapping[str, str]

NAMES = frozenset(field.name for field in fields(Filter))
PRESETS = ("fast", "balanced", "quality", "auto")
WORDS: Mapping[str, Fields] = {
    "running": {"status": "processing"},
    "waiting": {"status": "pending"},
    "completed": {"status": "completed"},
    "failed": {"status": "failed"},
    "cancelled": {"status": "cancelled"},
    "review": {"review": "wanted"},
    "approved": {"review": "approved"},
    "rejected": {"review": "rejected"},
}
FIELDS = {
    "shop": "Shop, or a part of its name",
    "product": "Product id",
    "handle": "Product handle",
    "variant": "Variant id",
    "batch": "Batch",
    "job": "Job id, or its first digits",
    "host": "Host",
    "code": "Error code",
    "review": "Review",
    "preset": "Preset",
    "engine": "Engine",
    "pool": "Pool",
    "since": "Since, in UTC, or such as 2h or 7d",
    "until": "Until",
}
"""The fields of a filter but `status`, as the page calls them."""

PROBED = 200  # jobs that are looked at, to see if a name is known

# A word is anything without a space, or in quotes.
_NAMED = re.compile(r"(?<!\S)([a-z]+):(?!/)(?:\"([^\"]*)\"|(\S+))")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s<>\"]+")
_GID = re.compile(r"gid://shopify/(Product|ProductVariant)/(\w+)")
_SHOP = r"[a-z0-9][a-z0-9-]*\.myshopify\.com"
_POINTS = ".,;:!?*'()[]"  # what a sentence puts around a name
_NUMBER = re.compile(r"\b\d{9,20}\b")  # a product or a variant of Shopify, within a sentence
# `/store/tea/products/8123/variants/4567` of admin.shopify.com, and the older `/admin/products/8123` of the shop itself.
_ADMIN = re.compile(r"(?:/store/([a-z0-9-]+)|/admin)/products/(\d+)(?:/variants/(\d+))?")
_PAGE = re.compile(r"/products/([^/]+)")
# Paths that worker/storage/paths.py makes: of a product's files, or of those of a version of it.
_FILE = re.compile(rf"/({_SHOP})/([\w-]+)(?:/([\w-]+))?(?:/v)?\.[\w.]+$")


def read(engine: Engine, text: str) -> list[Filter]:
    """Return the filters that a text can mean, the likeliest first. None if no job has anything of that name.

    Raises: BadFilter for a named value that its field cannot have, sqlalchemy's DBAPIError.
    """
    named = {name: quoted or plain for name, quoted, plain in _NAMED.findall(text) if name in NAMES}
    rest = _NAMED.sub(lambda found: " " * (found[1] not in NAMES) and found[0], text).strip()
    if not rest:
        return [Filter.parse(named)] if named else []
    certain = _certain(rest)
    if certain is not None:
        return [Filter.parse({**certain, **named})]
    found: dict[Filter, None] = {}
    for guess in _guesses(engine, " ".join(rest.split())):
        try:
            wanted = Filter.parse(guess)
        except BadFilter:
            continue
        if Search(engine, wanted).find(most=1, visits=PROBED).places:
            found[Filter.parse({**guess, **named})] = None
    return list(found)


def _certain(text: str) -> Fields | None:
    """Return what a text means that has something in it of an unmistakable form. None for others."""
    if gid := _GID.search(text):
        return {"product" if gid[1] == "Product" else "variant": gid[2]}
    addresses = [found for url in _URL.findall(text) if (found := _address(url.rstrip(_POINTS)))]
    if addresses:  # an e-mail has others than the product's, too
        return max(addresses, key=lambda found: found.keys() != {"shop"})
    if job := _UUID.search(text):
        return {"job": job[0]}
    return None


def _address(url: str) -> Fields | None:
    """Return the product, the job or the shop that an address names. None if it names none."""
    try:
        parts = urlsplit(url)
        host, path, query = parts.hostname or "", unquote(parts.path), parse_qs(parts.query)
    except ValueError:
        return None
    shop = host if re.fullmatch(_SHOP, host) else ""
    found: dict[str, Any] = {}
    if admin := _ADMIN.search(path):
        shop = f"{admin[1]}.myshopify.com" if admin[1] else shop
        found = {"product": admin[2], "variant": admin[3] or ""}
    elif file := _FILE.search(path):
        shop = file[1]
        found = {"product": file[2], "variant": file[3] if file[3] != "v" else ""}
    elif page := _PAGE.search(path):
        found = {"handle": page[1], "variant": query.get("variant", [""])[0]}
    elif job := _UUID.search(path):
        found = {"job": job[0]}
    if shop:
        found["shop"] = shop
    return {name: value for name, value in found.items() if value} or None


def _guesses(engine: Engine, everything: str) -> Iterator[Fields]:
    """Yield what a text may mean: first what names one thing, last what is a part of a name."""
    text = everything[:LONGEST]
    word = text.lower()
    bare = text.strip(f"#{_POINTS}")
    if re.fullmatch("[0-9a-f-]{6,36}", bare.lower()):
        yield {"job": bare}
    for name in dict.fromkeys((text, bare or text, *_NUMBER.findall(everything))):
        yield {"product": name}
        yield {"variant": name}
    yield {"handle": text}
    handle = re.sub(r"\W+", "-", word).strip("-")  # as Shopify makes it of a title
    if handle not in ("", word):
        yield {"handle": handle}
    yield {"shop": f"{word}.myshopify.com"}
    yield from ({"shop": shop} for shop in re.findall(_SHOP, everything.lower()) if shop != word)
    yield {"batch": text}
    if word in ERRORS:
        yield {"code": word}
    if word in WORDS:
        yield WORDS[word]
    if word in PRESETS:
        yield {"preset": word}
    if word in engines.ENGINES:
        yield {"engine": word}
    if any(host["name"] == text for host in hosts.list_hosts(engine)):
        yield {"host": text}
    yield {"shop": text}
