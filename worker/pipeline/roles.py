"""Decide which photo is used as which side of the product: what `metadata.views` states, as far as it can be used."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from worker.engines.surface import AZIMUTHS, Role
from worker.pipeline.photo import Photo
from worker.pipeline.role_checks import COPY, doubts

FRONT: Role = "front"

NO_FRONT = "The views name no front and were not used."
TWICE = "It is stated as more than one side."
SAME_FILE = "It is the same file as another photo, which is stated as another side."


class Stated(NamedTuple):
    """The sides that a row states. Empty if it states none that can be used."""

    photos: Mapping[Role, int]  # each side's photo, as an index into `image_urls`; the front first
    reasons: Mapping[
        int, str
    ]  # why a photo that the row names is not used as the side that was stated for it
    warnings: Sequence[str]


class Assigned(NamedTuple):
    """The roles of the photos. Photos are indices into `image_urls`."""

    roles: Mapping[
        int, Role
    ]  # of the photos that the model is made from; the front first, empty if no photo can be used
    # Why a photo is not used as the side that was stated for it. It may be the front nevertheless.
    reasons: Mapping[int, str]
    warnings: Sequence[str]
    front_stated: bool  # false if the worker chose the front


def assign(views: Any, photos: Sequence[Photo], marked: int | None = None) -> Assigned:
    """Choose the photos that the model is made from.

    Without a stated front the model is made from the best photo alone; of equals the one that the backend named first.

    Args:
        views: `metadata.views`: {"front": index, "left" | "back" | "right": index}, or anything else that the backend
            wrote. What makes no sense is not used and causes a warning.
        photos: all photos of the job, in the order of `image_urls`, cut out and scored.
        marked: the photo in which `metadata.subject` marks the product. It is the front if none is stated.
    """
    stated = read_views(views, len(photos))
    if marked is not None and not stated.photos:
        stated = stated._replace(photos={FRONT: marked})
    usable = {n: photo.scored.score.total for n, photo in enumerate(photos) if photo.scored}
    placed = {n: role for role, n in stated.photos.items() if n in usable}
    if FRONT in placed.values():
        found = _copies({role: photos[n] for n, role in placed.items()})
        apart = {role: photos[n].scored for n, role in placed.items() if role not in found}
        found |= doubts({role: scored.view for role, scored in apart.items() if scored})
        believed = {n: role for n, role in placed.items() if role not in found}
        reasons = {n: found[role] for n, role in placed.items() if role in found}
        lost = [role for role, n in stated.photos.items() if n not in usable]
        warnings = [
            *stated.warnings,
            *(
                f"The photo of the {role} {'was left out on request' if photos[stated.photos[role]].excluded else 'could not be used'}."
                for role in lost
            ),
            *(f"The {role} was left out. {why}" for role, why in found.items()),
        ]
        return Assigned(believed, {**stated.reasons, **reasons}, warnings, front_stated=True)
    # What is left of or behind a front that nobody sees helps nothing.
    best = max(usable.keys() - placed.keys() or usable.keys(), key=lambda n: (usable[n], -n), default=None)
    reasons = {n: _no_front(role) for n, role in placed.items()}
    warnings = list(stated.warnings)
    if stated.photos and usable:
        warnings.append(
            "The photo of the front could not be used: the model was made from another photo alone."
        )
    roles = {} if best is None else {best: FRONT}
    return Assigned(roles, {**stated.reasons, **reasons}, warnings, front_stated=False)


def read_views(views: Any, count: int) -> Stated:
    """Read `metadata.views` of a job with `count` photos. Every entry that makes no sense causes a warning."""
    if views is None:
        return Stated({}, {}, [])
    if not isinstance(views, dict):
        return Stated(
            {}, {}, ['The views are not an object such as {"front": 0, "back": 1} and were not used.']
        )
    photos: dict[Role, int] = {}
    warnings = []
    if views.keys() - AZIMUTHS.keys():
        warnings.append("The views name a side other than front, left, back and right: it was not used.")
    for role in AZIMUTHS:
        match views.get(role):
            case None:
                continue
            case int() as n if not isinstance(n, bool) and 0 <= n < count:
                photos[role] = n
            case _:
                warnings.append(f"The {role} in the views is not the index of a photo and was not used.")
    twice = {role for role, n in photos.items() if list(photos.values()).count(n) > 1}
    reasons = {photos[role]: TWICE for role in twice}
    for role in sorted(twice, key=list(AZIMUTHS).index):
        warnings.append(
            f"The {role} in the views is a photo that is stated as another side, too, and was not used."
        )
        del photos[role]
    if photos and FRONT not in photos:
        return Stated({}, dict.fromkeys(photos.values(), NO_FRONT) | reasons, [*warnings, NO_FRONT])
    return Stated(photos, reasons, warnings)


def subject_photo(views: Any, count: int) -> int:
    """Return the photo of which `metadata.subject` speaks: the stated front, else the first."""
    return read_views(views, count).photos.get(FRONT, 0)


def _copies(photos: Mapping[Role, Photo]) -> dict[Role, str]:
    """Return why photos that are the same file as another one are left out. The front stays."""
    files = [photo.sha256 for photo in photos.values() if photo.sha256]
    return {
        role: COPY if photo.sha256 == photos[FRONT].sha256 else SAME_FILE
        for role, photo in photos.items()
        if role != FRONT and files.count(photo.sha256) > 1
    }


def _no_front(role: Role) -> str:
    return f"The photo of the front could not be used, and without it the {role} does not help."
