"""Checked by the independent package `standardwebhooks`."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from receiver import SECRET
from standardwebhooks import Webhook, WebhookVerificationError

from worker.core.settings import ConfigError
from worker.webhooks import signature

NEW = "whsec_" + base64.b64encode(b"another secret of thirty-two byt").decode()
BODY = b'{"jobId": "1", "status": "completed"}'


def test_a_receiver_can_verify_it() -> None:
    headers = signature.headers(signature.keys(SECRET), event="e1", body=BODY, sent_at=datetime.now(UTC))
    assert Webhook(SECRET).verify(BODY, headers) == {"jobId": "1", "status": "completed"}
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", headers)
    old = signature.headers(
        signature.keys(SECRET), event="e1", body=BODY, sent_at=datetime.now(UTC) - timedelta(hours=1)
    )
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, old)


@pytest.mark.parametrize("between", [",", " ", ", "])
def test_while_a_secret_is_replaced_receivers_with_either_can_verify_it(between: str) -> None:
    keys = signature.keys(f"{NEW}{between}{SECRET.removeprefix('whsec_')}")
    headers = signature.headers(keys, event="e1", body=BODY, sent_at=datetime.now(UTC))
    for secret in (SECRET, NEW):
        assert Webhook(secret).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"a third").decode()).verify(BODY, headers)


def test_without_a_secret_there_is_no_signature() -> None:
    assert set(signature.headers([], event="e1", body=BODY, sent_at=datetime.now(UTC))) == {
        "webhook-id",
        "webhook-timestamp",
    }


@pytest.mark.parametrize("secret", ["", " ", "whsec_", "not base64!", "whsec_abc", f"{SECRET},no"])
def test_a_secret_that_is_no_base64_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match="WEBHOOK_SECRET"):
        signature.keys(secret)
