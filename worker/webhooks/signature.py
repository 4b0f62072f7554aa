"""Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks): the headers that prove the sender."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime

from worker.core.settings import ConfigError


def keys(secrets: str) -> list[bytes]:
    """Decode `whsec_…` secrets separated by commas or spaces. Raises: ConfigError if one is not base64."""
    return [_key(secret) for secret in secrets.replace(",", " ").split() or [""]]


def headers(keys: Sequence[bytes], *, event: str, body: bytes, sent_at: datetime) -> dict[str, str]:
    """Return the headers of one request, with a signature for each key.

    event: the event's id, the same at every attempt.
    sent_at: the time of this attempt.
    """
    timestamp = str(int(sent_at.timestamp()))
    unsigned = {"webhook-id": event, "webhook-timestamp": timestamp}
    if not keys:
        return unsigned
    signed = b".".join([event.encode(), timestamp.encode(), body])
    digests = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys)
    return unsigned | {"webhook-signature": " ".join(f"v1,{digest}" for digest in digests)}


def _key(secret: str) -> bytes:
    try:
        decoded = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded:
        raise ConfigError("WEBHOOK_SECRET is not base64. Make one with: openssl rand -base64 32")
    return decoded
