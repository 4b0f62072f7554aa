"""Every way in which a job can fail, and what the errors of others mean: their text, without secrets, and if a retry can help."""

import errno
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple


class ErrorKind(NamedTuple):
    """The meaning of an error code."""

    retryable: bool  # a retry can help
    message: str  # for a merchant
    operator: str  # for whoever runs the worker, in Markdown: what it means, and what to do


ERRORS: dict[str, ErrorKind] = {
    # The photos
    "photo_url_refused": ErrorKind(
        False,
        "The photo's URL cannot be used. It must begin with https://.",
        "The URL is not an https URL. Fix the backend.",
    ),
    "photo_host_refused": ErrorKind(
        False,
        "The photo is on a server that is not allowed. Upload it to the shop.",
        "The host is not in `WORKER_PHOTO_HOSTS`, or its address belongs to a private network.",
    ),
    "photo_not_found": ErrorKind(
        False,
        "There is no photo at this URL any more. Upload it again.",
        "404, 410 or a similar answer for the photo.",
    ),
    "photo_forbidden": ErrorKind(
        False,
        "The photo's server does not let us read it. Make the photo public.",
        "401, 403 or similar. The usual reason is an expired signed URL.",
    ),
    "photo_unreachable": ErrorKind(
        True,
        "The photo's server could not be reached or did not answer in time.",
        "DNS error, connection error, 5xx, or no answer. If many shops are affected at once, check the worker's network.",
    ),
    "photo_too_slow": ErrorKind(
        True,
        "The photo's server is too slow. Upload the photo to the shop.",
        "The photo did not arrive within 30 s, or the job's photos not within 60 s in all. One shop: its server is slow, or means to be; the lane went on after that time. Many shops: check the worker's network.",
    ),
    "photo_too_large": ErrorKind(
        False, "The photo's file is too large. Use one below 20 MB.", "More than 20 MB."
    ),
    "photo_too_many_pixels": ErrorKind(
        False, "The photo has too many pixels. Use one below 40 megapixels.", "More than 40 megapixels."
    ),
    "photo_too_small": ErrorKind(
        False,
        "The photo is too small. Use one of at least 64 by 64 pixels.",
        "Less than 64 pixels wide or high.",
    ),
    "photo_not_an_image": ErrorKind(
        False,
        "The file is not a photo. Use JPEG, PNG, WebP or AVIF.",
        "Often an HTML page instead of a photo. Open the URL.",
    ),
    "photo_too_complex": ErrorKind(
        False,
        "The photo takes too much time or memory to open. Save it again as an ordinary JPEG or PNG.",
        "The decoder reached its limit of memory or time. An attack, or a very unusual file.",
    ),
    "photo_broken": ErrorKind(
        False,
        "The photo's file is damaged or incomplete. Upload it again.",
        "The file is truncated or damaged.",
    ),
    "no_object": ErrorKind(
        False,
        "No product could be found in the photo. Use one that shows it on a plain background.",
        "The cut-out is empty. If it happens for all photos: `worker weights verify`.",
    ),
    # The model
    "no_surface": ErrorKind(
        False,
        "No 3D shape could be made from this photo. Try a clearer photo of the whole product.",
        "The engine found no shape.",
    ),
    "out_of_memory": ErrorKind(
        True,
        "The server ran out of memory while making the model.",
        "GPU or host memory. Check for other processes: see `ModelWorkerGpuNearlyFull`.",
    ),
    "no_space": ErrorKind(
        True,
        "The server ran out of disk space while making the model.",
        "The disk of `WORKER_TEMP_DIR` or `WORKER_STORAGE_DIR` is full, or has no room for more files (`df -i`).",
    ),
    "temp_unavailable": ErrorKind(
        True,
        "The server's temporary files were lost while making the model.",
        "Somebody deleted files of the running job below `WORKER_TEMP_DIR`, or its disk cannot be used any more. Exclude the folder from clean-up jobs.",
    ),
    "timed_out": ErrorKind(
        False,
        "Making the model took too long and was stopped.",
        "`WORKER_SOFT_LIMIT_S` or `WORKER_HARD_LIMIT_S` was reached. `stage` says where. Many of these point to a GPU that hangs.",
    ),
    "internal_error": ErrorKind(
        True,
        "Something went wrong while making the model.",
        "A bug in the worker. Report the traceback of `child_error` or `lane_error` in the log. If `error_message` says that the model's file is damaged, the finished GLB did not pass its check: see docs/models.md#the-files.",
    ),
    "worker_lost": ErrorKind(
        True,
        "The server that was making the model stopped working.",
        "The child or the whole worker ended during the job. See `child_died` in the log, or `job_rescued` on another host.",
    ),
    "superseded": ErrorKind(
        False,
        "A newer request for the same product was finished first.",
        "Set on cancelled jobs: the model of a newer job for the same product was published first. No action needed.",
    ),
    "expired": ErrorKind(
        False,
        "The model could not be started in time. Request it again.",
        "Set on cancelled jobs: no worker began the job by its `start_by`. If there are many, the queue is too long: add hosts, or set a later time.",
    ),
    # The bucket
    "storage_unavailable": ErrorKind(
        True,
        "The finished model could not be stored because the storage did not answer.",
        "The bucket did not answer within three minutes of tries. No jobs are claimed until it does.",
    ),
    # Retryable, because the operator can repair it, and no job should be lost to a changed key.
    "storage_denied": ErrorKind(
        True,
        "The worker has no access to the storage. The shop's developer must look at it.",
        "The key or the bucket is wrong: `worker doctor`. No jobs are claimed until it works.",
    ),
    "storage_too_large": ErrorKind(
        False,
        "The finished model is larger than the storage allows.",
        "The file exceeds the size limit of the bucket or the project.",
    ),
    "storage_refused": ErrorKind(
        False,
        "The storage refused the finished model. The shop's developer must look at it.",
        "The log event of the same name has the reason.",
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
