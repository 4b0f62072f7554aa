"""Every way in which a job can fail: a stable code, a sentence for a merchant, and whether trying again can help."""

from typing import NamedTuple


class ErrorKind(NamedTuple):
    retryable: bool
    message: str


ERRORS: dict[str, ErrorKind] = {
    # The photos
    "photo_url_refused": ErrorKind(
        False, "The photo's address is not a web address that can be used. It must begin with https://."
    ),
    "photo_host_refused": ErrorKind(
        False, "The photo lies on a server that photos are not taken from. Upload it to the shop."
    ),
    "photo_not_found": ErrorKind(False, "The photo is no longer at its address. Upload it again."),
    "photo_forbidden": ErrorKind(
        False, "The photo's address does not let us read it. Make the photo public."
    ),
    "photo_unreachable": ErrorKind(
        True, "The photo's server could not be reached or did not answer in time."
    ),
    "photo_too_large": ErrorKind(False, "The photo's file is too large. Use one below 20 MB."),
    "photo_too_many_pixels": ErrorKind(False, "The photo has too many pixels. Use one below 40 megapixels."),
    "photo_too_small": ErrorKind(False, "The photo is too small. Use one of at least 64 by 64 pixels."),
    "photo_not_an_image": ErrorKind(False, "The file is not a photo. Use JPEG, PNG, WebP or AVIF."),
    "photo_too_complex": ErrorKind(
        False, "The photo takes too much time or memory to open. Save it anew as an ordinary JPEG or PNG."
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
    "timed_out": ErrorKind(False, "Making the model took too long and was stopped."),
    "internal_error": ErrorKind(True, "Something went wrong while making the model."),
    "worker_lost": ErrorKind(True, "The server that was making the model stopped working."),
    "superseded": ErrorKind(False, "A newer request for the same product was finished first."),
    # The bucket
    "storage_unavailable": ErrorKind(
        True, "The finished model could not be stored because the storage did not answer."
    ),
    # Retryable, since it is for the operator to mend, and no job should be lost to a key that was changed.
    "storage_denied": ErrorKind(
        True, "The storage did not let the finished model in. The shop's developer must look at it."
    ),
    "storage_too_large": ErrorKind(False, "The finished model is larger than the storage takes."),
    "storage_refused": ErrorKind(
        False, "The storage refused the finished model. The shop's developer must look at it."
    ),
}


class JobError(Exception):
    """A job, or one photo of it, has failed for a known reason.

    `message` replaces the code's own sentence where a more exact one can be said; both are fit for a merchant.
    """

    def __init__(self, code: str, message: str | None = None) -> None:
        known = ERRORS[code]
        self.code = code
        self.message = message or known.message
        self.retryable = known.retryable
        super().__init__(f"{code}: {self.message}")
