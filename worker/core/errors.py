"""Every way in which a job can fail, and what the errors of others mean: their text, without secrets, and if a retry can help."""

import errno
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple


class ErrorKind(NamedTuple):
    """The meaning of an error code: whether a retry can help, and a sentence for a merchant."""

    retryable: bool
    message: str


ERRORS: dict[str, ErrorKind] = {
    # The photos
    "photo_url_refused": ErrorKind(False, "The photo's URL cannot be used. It must begin with https://."),
    "photo_host_refused": ErrorKind(
        False, "The photo is on a server that is not allowed. Upload it to the shop."
    ),
    "photo_not_found": ErrorKind(False, "There is no photo at this URL any more. Upload it again."),
    "photo_forbidden": ErrorKind(False, "The photo's server does not let us read it. Make the photo public."),
    "photo_unreachable": ErrorKind(
        True, "The photo's server could not be reached or did not answer in time."
    ),
    "photo_too_large": ErrorKind(False, "The photo's file is too large. Use one below 20 MB."),
    "photo_too_many_pixels": ErrorKind(False, "The photo has too many pixels. Use one below 40 megapixels."),
    "photo_too_small": ErrorKind(False, "The photo is too small. Use one of at least 64 by 64 pixels."),
    "photo_not_an_image": ErrorKind(False, "The file is not a photo. Use JPEG, PNG, WebP or AVIF."),
    "photo_too_complex": ErrorKind(
        False, "The photo takes too much time or memory to open. Save it again as an ordinary JPEG or PNG."
    ),
    "photo_broken": ErrorKind(False, "The photo's file is damaged or incomplete. Upload it again."),
    "no_object": ErrorKind(
        False, "No product could be found in the photo. Use one that shows it on a plain background."
    ),
    # The model
    "no_surface": ErrorKind(
        False, "No 3D shape could be made from this photo. Try a clearer photo of the whole product."
    ),
    "out_of_memory": ErrorKind(True, "The server ran out of memory while making the model."),
    "no_space": ErrorKind(True, "The server ran out of disk space while making the model."),
    "temp_unavailable": ErrorKind(True, "The server's temporary files were lost while making the model."),
    "timed_out": ErrorKind(False, "Making the model took too long and was stopped."),
    "internal_error": ErrorKind(True, "Something went wrong while making the model."),
    "worker_lost": ErrorKind(True, "The server that was making the model stopped working."),
    "superseded": ErrorKind(False, "A newer request for the same product was finished first."),
    "expired": ErrorKind(False, "The model could not be started in time. Request it again."),
    # The bucket
    "storage_unavailable": ErrorKind(
        True, "The finished model could not be stored because the storage did not answer."
    ),
    # Retryable, because the operator can repair it, and no job should be lost to a changed key.
    "storage_denied": ErrorKind(
        True, "The worker has no access to the storage. The shop's developer must look at it."
    ),
    "storage_too_large": ErrorKind(False, "The finished model is larger than the storage allows."),
    "storage_refused": ErrorKind(
        False, "The storage refused the finished model. The shop's developer must look at it."
    ),
}


class JobError(Exception):
    """A job, or one of its photos, failed for a known reason.

    `code` is a key of ERRORS. `message` replaces the code's sentence if there is a more exact one; a merchant may read both.
    `reason` is what the log says instead, for the operator.
    """

    def __init__(self, code: str, message: str | None = None, *, reason: str | None = None) -> None:
        known = ERRORS[code]
        self.code = code
        self.message = message or known.message
        self.retryable = known.retryable
        super().__init__(f"{code}: {reason or self.message}")


# ESC and the other controls but for tab and line feed, line and paragraph separators, marks that turn the direction of what
# follows, and lone surrogates, which no encoding holds.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def one_line(error: BaseException | None) -> str:
    """Return an error's text on one line. Of an SQLAlchemy error it is the driver's, which does not repeat the statement."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def printable(text: str) -> str:
    """Return a text that cannot command a terminal or reorder a line: control and bidirectional characters become �."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: a Postgres error shows the row's values in the lines after it."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def is_wrong_path(error: OSError) -> bool:
    """True if an error says that a path itself is wrong. Other errors, such as a disk that is read-only, can go away."""
    return error.errno in {errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


def is_retryable_status(status: int) -> bool:
    """True if an HTTP status says that the same request may succeed later."""
    return status in {408, 425, 429} or status >= 500  # request timeout, too early, too many requests


def parse_retry_after(header: str | None) -> float | None:
    """Parse a Retry-After header, a number of seconds or a date. Returns seconds from now, 0 or more; None if it is neither."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            return float(header)
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # the second: a year or a zone with twenty digits
        return None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (zoned - datetime.now(UTC)).total_seconds())


_URL = re.compile(r"[a-z][a-z0-9+.-]*:[/\\]{2}[^\s'\"<>]*", re.IGNORECASE)
# User and password. In a malformed URL all before the last @, unless a plain host comes first and the @ is in the path.
_USERINFO = re.compile(r"(?<=[/\\]{2})([^/]*@|(?!([\w.-]+|\[[0-9a-f:.]+\])(:\d*)?(/|$)).*@)", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a URL, well-formed or not, without what may be secret: user, password, query and fragment."""
    return _USERINFO.sub("", re.split(r"[?#]", url, maxsplit=1)[0])


def redact_text(text: str) -> str:
    """Return a text with each URL in it redacted."""
    return _URL.sub(lambda found: redact_url(found[0]), text)
