"""Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks): the headers that prove who sent what."""

import base64
import binascii
import hashlib
import hmac
from datetime import datetime

from worker.settings import ConfigError


def key(secret: str) -> bytes:
    """The bytes of a `whsec_…` secret. Raises: ConfigError where it is not base64."""
    try:
        decoded = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        decoded = b""
    if not decoded:
        raise ConfigError("WEBHOOK_SECRET is not base64. Make one with: openssl rand -base64 32")
    return decoded


def headers(key: bytes | None, *, event: str, body: bytes, sent_at: datetime) -> dict[str, str]:
    """`event` stays the same at every try, `sent_at` is the time of this one; without a key there is no signature."""
    timestamp = str(int(sent_at.timestamp()))
    unsigned = {"webhook-id": event, "webhook-timestamp": timestamp}
    if key is None:
        return unsigned
    signed = b".".join([event.encode(), timestamp.encode(), body])
    digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return unsigned | {"webhook-signature": f"v1,{digest}"}
