"""An inbound source: a path, how its messages are authenticated, and how they are read."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from receiver.signature import SHA256_HEADER, TOLERANCE_S, Keys, Require, SignatureError
from receiver.verification.identity import Dialect
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
