"""An inbound source: a path, how its messages are authenticated, and how they are read."""

import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from receiver.base.completion import DEPTH_MAX
from receiver.base.secrets import key_fault, secret_fault
from receiver.signature import SHA256_HEADER, TOLERANCE_S, Keys, Require, SignatureError
from receiver.verification.identity import DIALECTS, Dialect

Reruns: TypeAlias = Literal["first", "latest"]

RERUNS: Final = ("first", "latest")
CHOICES: Final = {
    "dialect": DIALECTS,
    "require": ("any", "sha256", "standard"),
    "reruns": RERUNS,
}
DEPTH_LIMIT: Final = 900  # the interpreter's own is about 1,000
TOLERANCE_MAX_S: Final = 86_400.0
_PATH: Final = re.compile(r"/[!-~]*")
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Messages of one platform or account. Job ids of two sources never meet.

    It has `secrets`, any of which signs; or a `url_token` that the URL must carry as
    `?token=`, for platforms that sign nothing; or both, and then both must hold. `reruns`
    says which end of a job counts that is run again under its id: its `first`, or the
    `latest`. Raises ValueError when nothing would vouch for its messages, and for a value that
    there is not.
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
        self._check_values()
        if not self.secrets and self.url_token is None:
            raise ValueError(f"{self.path}: give signing secrets, or a token for its URL")
        for n, secret in enumerate(self.secrets, start=1):
            fault = self._secret_fault(secret)
            if fault is not None:
                raise ValueError(f"{self.path}: secret {n} {fault}")
        fault = None if self.url_token is None else key_fault(self.url_token)
        if fault is not None:
            raise ValueError(f"{self.path}: its token {fault}")
        try:
            keys = Keys(self.secrets) if self.secrets else None
        except SignatureError as error:
            raise ValueError(f"{self.path}: {error}") from None
        object.__setattr__(self, "keys", keys)  # the way into a frozen one

    def _secret_fault(self, secret: object) -> str | None:
        """Return why this cannot be one of its secrets."""
        return secret_fault(secret)

    def _check_values(self) -> None:
        """Raise ValueError for what a program has mistaken: an unknown `require` would be `any`."""
        given: object = self.secrets
        if isinstance(given, str):  # each character of it would be a secret
            raise ValueError(f"{self.path}: secrets is a tuple of texts")  # noqa: TRY004 - as all
        object.__setattr__(self, "secrets", tuple(self.secrets))
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                words = ", ".join(choices)
                raise ValueError(f"{self.path}: {name} is one of {words}, not {value!r}")
        for name, form in (("path", _PATH), ("signature_header", HEADER_NAME)):
            if not form.fullmatch(value if isinstance(value := getattr(self, name), str) else ""):
                raise ValueError(f"{self.path}: {name} cannot be {value!r}")
        for name, low, high in (("tolerance_s", 0, TOLERANCE_MAX_S), ("depth_max", 1, DEPTH_LIMIT)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(f"{self.path}: {name} is from {low} to {high}, not {value!r}")

    @property
    def takes_cerebrium(self) -> bool:
        """Whether Cerebrium's own signature will do."""
        return self.dialect == "cerebrium" and self.require == "any"
