"""The deliveries that the kit sends: bytes and headers. Pure."""

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from receiver.signature import (
    ID_HEADER,
    PREVIOUS_SUFFIX,
    SHA256_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    generate_secret,
    sign_sha256,
    sign_v1,
    v1_key,
)

STALE_S: Final = 3600  # twelve times the usual tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request to a receiver."""

    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    chunked: bool = False  # sent without its length


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
        """Signed with `secret` (default: the right one), as if `shift_s` later."""
        secret = secret or self.secret
        headers = {"Content-Type": "application/json", "User-Agent": "Postback/check"}
        if self.sha256 if sha256 is None else sha256:
            headers[SHA256_HEADER] = sign_sha256(secret, body)
        if self.standard if standard is None else standard:
            id, at_s = f"msg_{self.run}_{message}", self.now_s() + shift_s
            headers[ID_HEADER] = id
            headers[TIMESTAMP_HEADER] = str(at_s)
            headers[SIGNATURE_HEADER] = sign_v1(secret, id, at_s, body)
        return Delivery(body=body, headers=headers)

    def rotated(
        self, body: bytes, message: str, *, known: Literal["current", "previous"]
    ) -> Delivery:
        """Signed with two secrets, as during a rotation; the receiver knows one of them."""
        strange = generate_secret()
        pair = (self.secret, strange) if known == "current" else (strange, self.secret)
        current, previous = (self.deliver(body, message, secret=one) for one in pair)
        headers = dict(current.headers)
        if SHA256_HEADER in headers:
            headers[SHA256_HEADER + PREVIOUS_SUFFIX] = previous.headers[SHA256_HEADER]
        if SIGNATURE_HEADER in headers:
            values = (one.headers[SIGNATURE_HEADER] for one in (current, previous))
            headers[SIGNATURE_HEADER] = " ".join(values)
        return Delivery(body=body, headers=headers)


def tampered(delivery: Delivery) -> Delivery:
    """Return the same signatures over another status."""
    changed = delivery.body.replace(b"completed", b"cancelled")
    return replace(delivery, body=changed)


def without(delivery: Delivery, *names: str) -> Delivery:
    """Without these headers."""
    lower = {name.lower() for name in names}
    kept = {name: v for name, v in delivery.headers.items() if name.lower() not in lower}
    return replace(delivery, headers=kept)


def with_header(delivery: Delivery, name: str, value: str) -> Delivery:
    """With this header in place of its own."""
    return replace(delivery, headers={**delivery.headers, name: value})


def chunked(delivery: Delivery) -> Delivery:
    """Without saying its length before."""
    return replace(delivery, chunked=True)


def timed(signer: Signer, body: bytes, message: str, timestamp: str) -> Delivery:
    """Signed right in the standard scheme over whatever stands for its timestamp."""
    good = signer.deliver(body, message)
    prefix = f"{good.headers[ID_HEADER]}.{timestamp}.".encode()
    digest = hmac.digest(v1_key(signer.secret), prefix + body, "sha256")
    value = "v1," + base64.b64encode(digest).decode()
    signed = with_header(good, TIMESTAMP_HEADER, timestamp)
    return with_header(signed, SIGNATURE_HEADER, value)
