"""The deliveries that the kit sends: bytes and headers. Pure."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from receiver.signature import (
    ID_HEADER,
    SHA256_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    generate_secret,
    sign_sha256,
    sign_v1,
)

STALE_S: Final = 3600  # twelve times the usual tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request to a receiver."""

    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Makes deliveries that hold, and ones that do not."""

    secret: str = field(repr=False)
    run: str  # in every job id: two runs of the kit do not meet
    now_s: Callable[[], int]
    standard: bool = True  # whether the webhook-* headers are sent
    sha256: bool = True

    def job(self, name: str) -> str:
        return f"check_{self.run}_{name}"

    def payload(self, name: str, status: str = "completed", **fields: Any) -> bytes:
        document = {"jobId": self.job(name), "status": status, **fields}
        return json.dumps(document).encode()

    def deliver(
        self,
        body: bytes,
        message: str,
        *,
        secret: str | None = None,
        shift_s: int = 0,
        standard: bool | None = None,
        sha256: bool | None = None,
    ) -> Delivery:
        """Signed with ``secret`` (default: the right one), as if ``shift_s`` later."""
        secret = secret or self.secret
        headers = {"Content-Type": "application/json"}
        if self.sha256 if sha256 is None else sha256:
            headers[SHA256_HEADER] = sign_sha256(secret, body)
        if self.standard if standard is None else standard:
            id, at_s = f"msg_{self.run}_{message}", self.now_s() + shift_s
            headers[ID_HEADER] = id
            headers[TIMESTAMP_HEADER] = str(at_s)
            headers[SIGNATURE_HEADER] = sign_v1(secret, id, at_s, body)
        return Delivery(body=body, headers=headers)

    def rotated(self, body: bytes, message: str) -> Delivery:
        """Signed with the right secret and a strange one beside it, as during a rotation."""
        right = self.deliver(body, message)
        strange = self.deliver(body, message, secret=generate_secret())
        headers = dict(right.headers)
        if SHA256_HEADER in headers:
            headers[f"{SHA256_HEADER}-Previous"] = strange.headers[SHA256_HEADER]
        if SIGNATURE_HEADER in headers:
            both = f"{strange.headers[SIGNATURE_HEADER]} {right.headers[SIGNATURE_HEADER]}"
            headers[SIGNATURE_HEADER] = both
        return Delivery(body=body, headers=headers)


def tampered(delivery: Delivery) -> Delivery:
    """The same signatures over another status."""
    changed = delivery.body.replace(b"completed", b"cancelled")
    return Delivery(body=changed, headers=delivery.headers)


def without(delivery: Delivery, *names: str) -> Delivery:
    """Without these headers."""
    lower = {name.lower() for name in names}
    kept = {name: v for name, v in delivery.headers.items() if name.lower() not in lower}
    return Delivery(body=delivery.body, headers=kept)


def with_header(delivery: Delivery, name: str, value: str) -> Delivery:
    """With this header in place of its own."""
    return Delivery(body=delivery.body, headers={**delivery.headers, name: value})
