"""A way in: a path, what must vouch for its messages, and how they are read. No IO.

Order of checks: token in the URL, where the path has one → signature over the raw bytes →
timestamp → strict parse → identity.
"""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from receiver.signature import (
    SHA256_HEADER,
    TOLERANCE_S,
    Fields,
    Headers,
    Keys,
    Require,
    SignatureError,
    Verified,
    check,
)
from receiver.verification import cerebrium
from receiver.verification.identity import Dialect, Identity, identify
from receiver.verification.parse import DEPTH_MAX

Reruns: TypeAlias = Literal["first", "latest"]

RERUNS: Final = ("first", "latest")
TOKEN_CHARS_MIN: Final = 16  # an unsigned path is as safe as its token is hard to guess


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Messages of one platform or account. Job ids of two sources never meet.

    It has `secrets`, any of which signs; or a `url_token` that the URL must carry as
    `?token=`, for platforms that sign nothing; or both, and then both must hold. `reruns`
    says which end of a job counts that is run again under its id: its `first`, or the
    `latest`. Raises ValueError when nothing would vouch for its messages.
    """

    path: str = "/webhooks"
    secrets: tuple[str, ...] = field(default=(), repr=False)
    url_token: str | None = field(default=None, repr=False)
    dialect: Dialect = "auto"
    require: Require = "any"
    reruns: Reruns = "first"
    signature_header: str = SHA256_HEADER
    tolerance_s: float = float(TOLERANCE_S)
    depth_max: int = DEPTH_MAX
    keys: Keys | None = field(init=False, repr=False, compare=False)  # of the secrets

    def __post_init__(self) -> None:
        if not self.secrets and self.url_token is None:
            raise ValueError(f"{self.path}: give signing secrets, or a token for its URL")
        token = self.url_token
        if token is not None and (len(token) < TOKEN_CHARS_MIN or not token.isascii()):
            raise ValueError(f"{self.path}: a token is at least {TOKEN_CHARS_MIN} ASCII characters")
        try:
            keys = Keys(self.secrets) if self.secrets else None
        except SignatureError as error:
            raise ValueError(f"{self.path}: {error}") from None
        object.__setattr__(self, "keys", keys)  # the way into a frozen one

    @property
    def takes_cerebrium(self) -> bool:
        """Whether Cerebrium's own signature will do."""
        return self.dialect in ("auto", "cerebrium") and self.require == "any"


def authenticate(
    source: Source, body: bytes, headers: Headers, *, tokens: Iterable[str] = (), now_s: float
) -> Verified:
    """Return what vouches for a message, or SignatureError. `tokens` are the URL's `token`
    values."""
    if source.url_token is not None:
        _check_token(source.url_token, list(tokens))
    if source.keys is None:
        return Verified(schemes=("token",))
    fields = Fields(headers)
    if source.takes_cerebrium and cerebrium.is_signed(fields):
        return cerebrium.verify(
            body, fields, source.keys, now_s=now_s, tolerance_s=source.tolerance_s
        )
    return check(
        body,
        fields,
        source.keys,
        now_s=now_s,
        tolerance_s=source.tolerance_s,
        require=source.require,
        sha256_header=source.signature_header,
    )


def identity_of(source: Source, body: bytes, verified: Verified) -> Identity:
    """Whom an authenticated message speaks of, or ParseError."""
    is_cerebrium = "cerebrium" in verified.schemes
    return identify(
        body,
        verified.message_id,
        request_id=verified.message_id if is_cerebrium else None,
        dialect=source.dialect,
        depth_max=source.depth_max,
    )


def _check_token(expected: str, given: list[str]) -> None:
    if not given:
        raise SignatureError("missing", "the URL carries no token")
    if len(given) > 1:
        raise SignatureError("ambiguous", "the URL carries more than one token")
    if not hmac.compare_digest(given[0].encode("utf-8", "replace"), expected.encode()):
        raise SignatureError("mismatch", "the URL's token is not this path's")
