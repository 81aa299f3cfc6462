"""The deliveries that the kit sends, and the cases that they make up. Pure."""

import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from receiver.signature import (
    ID_HEADER,
    PREVIOUS_SUFFIX,
    SHA256_HEADER,
    SIGNATURE_HEADER,
    STANDARD_HEADERS,
    SVIX_HEADERS,
    TIMESTAMP_HEADER,
    Job,
    generate_secret,
    job_headers,
    sign_sha256,
    sign_v1,
    sign_v1j,
    v1_key,
)

Expected: TypeAlias = Literal["2xx", "4xx"]
Effects: TypeAlias = tuple[str, ...]  # the statuses that a job's handler was handed, in order

NOTHING: Final[tuple[Effects, ...]] = ((),)
ONCE: Final[tuple[Effects, ...]] = (("completed",),)

STALE_S: Final = 3600  # twelve times the usual tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request to a receiver."""

    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    chunked: bool = False  # sent without its length
    is_cut: bool = False  # only its first half is sent: then the sender hangs up


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Makes deliveries that are validly signed, and ones that are not."""

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
        job: Job | None = None,
    ) -> Delivery:
        """Sign with `secret` (default: the right one), as if `shift_s` later; `job` in signed
        headers, where the standard scheme is there."""
        secret = secret or self.secret
        headers = {"Content-Type": "application/json", "User-Agent": "Postback/check"}
        if self.sha256 if sha256 is None else sha256:
            headers[SHA256_HEADER] = sign_sha256(secret, body)
        if self.standard if standard is None else standard:
            id, at_s = f"msg_{self.run}_{message}", self.now_s() + shift_s
            headers[ID_HEADER] = id
            headers[TIMESTAMP_HEADER] = str(at_s)
            headers[SIGNATURE_HEADER] = sign_v1(secret, id, at_s, body)
            if job is not None:
                headers[SIGNATURE_HEADER] += f" {sign_v1j(secret, id, at_s, job)}"
                headers |= job_headers(job)
        return Delivery(body=body, headers=headers)

    def completion(
        self, job: str, message: str | None = None, status: str = "completed", *, shift_s: int = 0
    ) -> Delivery:
        """Sign a job's status, under the job's name where `message` is not given."""
        return self.deliver(self.payload(job, status), message or job, shift_s=shift_s)

    def rotated(self, job: str, *, known: Literal["current", "previous"]) -> Delivery:
        """Sign with two secrets, as in a rotation; the receiver knows one of them."""
        body = self.payload(job)
        unknown = generate_secret()
        pair = (self.secret, unknown) if known == "current" else (unknown, self.secret)
        current, previous = (self.deliver(body, job, secret=one) for one in pair)
        headers = dict(current.headers)
        if SHA256_HEADER in headers:
            headers[SHA256_HEADER + PREVIOUS_SUFFIX] = previous.headers[SHA256_HEADER]
        if SIGNATURE_HEADER in headers:
            values = (one.headers[SIGNATURE_HEADER] for one in (current, previous))
            headers[SIGNATURE_HEADER] = " ".join(values)
        return Delivery(body=body, headers=headers)


def tampered(delivery: Delivery) -> Delivery:
    """Keep the signatures, change the status."""
    changed = delivery.body.replace(b"completed", b"cancelled")
    return replace(delivery, body=changed)


def without(delivery: Delivery, *names: str) -> Delivery:
    """Drop these headers."""
    lower = {name.lower() for name in names}
    kept = {name: v for name, v in delivery.headers.items() if name.lower() not in lower}
    return replace(delivery, headers=kept)


def with_header(delivery: Delivery, name: str, value: str) -> Delivery:
    """Replace this header."""
    return replace(delivery, headers={**delivery.headers, name: value})


def renamed(delivery: Delivery) -> Delivery:
    """Name the standard headers as they were first named."""
    names = dict(zip(STANDARD_HEADERS, SVIX_HEADERS, strict=True))
    headers = {names.get(name, name): value for name, value in delivery.headers.items()}
    return replace(delivery, headers=headers)


def chunked(delivery: Delivery) -> Delivery:
    """Send it without its length."""
    return replace(delivery, chunked=True)


def upgrading(delivery: Delivery) -> Delivery:
    """Offer HTTP/2 with it, as some HTTP clients do with every request."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": ""}
    return replace(delivery, headers={**delivery.headers, **offer})


def cut(delivery: Delivery) -> Delivery:
    """Hang up in the middle of it."""
    return replace(delivery, is_cut=True)


def timed(signer: Signer, body: bytes, message: str, timestamp: str) -> Delivery:
    """Sign in the standard scheme, validly, over whatever stands for its timestamp."""
    good = signer.deliver(body, message)
    prefix = f"{good.headers[ID_HEADER]}.{timestamp}.".encode()
    digest = hmac.digest(v1_key(signer.secret), prefix + body, "sha256")
    value = "v1," + base64.b64encode(digest).decode()
    signed = with_header(good, TIMESTAMP_HEADER, timestamp)
    return with_header(signed, SIGNATURE_HEADER, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Deliveries, sent in turn (`at_once`: together), and what must become of them; of those that
    are cut nothing is expected.

    `effects` are what the handler of every one of `jobs` may have been handed in the end; None
    where the case says nothing of that. `advice` marks what a receiver may do otherwise without
    losing or doubling a completion; `may_refuse`, what it may refuse, but not take for something
    else. `why` says what to do about it where it goes wrong.
    """

    name: str
    deliveries: list[Delivery] = field(repr=False)
    response: Expected
    why: str
    at_once: bool = False
    jobs: tuple[str, ...] = ()
    effects: tuple[Effects, ...] | None = None
    advice: bool = False
    may_refuse: bool = False
    may_close: bool = False  # closing the connection will do as well


def accept(
    signer: Signer,
    name: str,
    jobs: list[str],
    deliveries: list[Delivery],
    why: str,
    *,
    effects: tuple[Effects, ...] = ONCE,
    at_once: bool = False,
    advice: bool = False,
    may_refuse: bool = False,
) -> Case:
    """Return a case of deliveries that must be taken; each of `jobs` is handled once."""
    return Case(
        name=name,
        deliveries=deliveries,
        response="2xx",
        why=why,
        at_once=at_once,
        jobs=tuple(signer.job(job) for job in jobs),
        effects=effects,
        advice=advice,
        may_refuse=may_refuse,
    )


def refuse(
    name: str,
    delivery: Delivery,
    why: str,
    *,
    job: str | None = None,
    advice: bool = False,
    may_close: bool = False,
) -> Case:
    """Return a case of one delivery that must be refused; `job`, if given, must not be handled."""
    return Case(
        name=name,
        deliveries=[delivery],
        response="4xx",
        why=why,
        jobs=(job,) if job else (),
        effects=NOTHING if job else None,
        advice=advice,
        may_close=may_close,
    )
