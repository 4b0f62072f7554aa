"""Every way in which a job can fail: a stable code, a sentence for a merchant, and whether trying again can help."""

from typing import NamedTuple


class Kind(NamedTuple):
    retryable: bool
    message: str


KINDS: dict[str, Kind] = {
    # The photos
    "photo_url_refused": Kind(
        False, "The photo's address is not a web address that can be used. It must begin with https://."
    ),
    "photo_host_refused": Kind(
        False, "The photo lies on a server that photos are not taken from. Upload it to the shop."
    ),
    "photo_not_found": Kind(False, "The photo is no longer at its address. Upload it again."),
    "photo_forbidden": Kind(False, "The photo's address does not let us read it. Make the photo public."),
    "photo_unreachable": Kind(True, "The photo's server could not be reached or did not answer in time."),
    "photo_too_large": Kind(False, "The photo's file is too large. Use one below 20 MB."),
    "photo_too_many_pixels": Kind(False, "The photo has too many pixels. Use one below 40 megapixels."),
    "photo_too_small": Kind(False, "The photo is too small. Use one of at least 64 by 64 pixels."),
    "photo_not_an_image": Kind(False, "The file is not a photo. Use JPEG, PNG, WebP or AVIF."),
    "photo_too_complex": Kind(
        False, "The photo takes too much time or memory to open. Save it anew as an ordinary JPEG or PNG."
    ),
    "photo_broken": Kind(False, "The photo's file is damaged or incomplete. Upload it again."),
    "no_object": Kind(
        False, "No product could be found in the photo. Use one that shows it on a plain background."
    ),
    # The model
    "no_surface": Kind(
        False, "No 3D shape could be made from this photo. Try a clearer photo of the whole product."
    ),
    "out_of_memory": Kind(True, "The server ran out of memory while making the model."),
    "no_space": Kind(True, "The server ran out of disk space while making the model."),
    "timed_out": Kind(False, "Making the model took too long and was stopped."),
    "internal_error": Kind(True, "Something went wrong while making the model."),
    "worker_lost": Kind(True, "The server that was making the model stopped working."),
    "superseded": Kind(False, "A newer request for the same product was finished first."),
    # The bucket
    "storage_unavailable": Kind(
        True, "The finished model could not be stored because the storage did not answer."
    ),
    # Retryable, since it is for the operator to mend, and no job should be lost to a key that was changed.
    "storage_denied": Kind(
        True, "The storage did not let the finished model in. The shop's developer must look at it."
    ),
    "storage_too_large": Kind(False, "The finished model is larger than the storage takes."),
    "storage_refused": Kind(
        False, "The storage refused the finished model. The shop's developer must look at it."
    ),
}


class JobError(Exception):
    """A job, or one photo of it, has failed for a known reason.

    `message` replaces the code's own sentence where a more exact one can be said; both are fit for a merchant.
    """

    def __init__(self, code: str, message: str | None = None) -> None:
        kind = KINDS[code]
        self.code = code
        self.message = message or kind.message
        self.retryable = kind.retryable
        super().__init__(f"{code}: {self.message}")
