"""Checked by the independent package `standardwebhooks`."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from worker.settings import ConfigError
from worker.webhooks import signature

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
BODY = b'{"jobId": "1", "status": "completed"}'


def test_a_receiver_can_verify_it() -> None:
    headers = signature.headers(signature.key(SECRET), event="e1", body=BODY, sent_at=datetime.now(UTC))
    assert Webhook(SECRET).verify(BODY, headers) == {"jobId": "1", "status": "completed"}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", headers)
    old = signature.headers(
        signature.key(SECRET), event="e1", body=BODY, sent_at=datetime.now(UTC) - timedelta(hours=1)
    )
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, old)


def test_without_a_secret_there_is_no_signature() -> None:
    assert set(signature.headers(None, event="e1", body=BODY, sent_at=datetime.now(UTC))) == {
        "webhook-id",
        "webhook-timestamp",
    }


@pytest.mark.parametrize("secret", ["", "whsec_", "not base64!", "whsec_abc"])
def test_a_secret_that_is_no_base64_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match="WEBHOOK_SECRET"):
        signature.key(secret)
