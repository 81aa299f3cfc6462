"""What people give as a secret: whether it can be one, and how a list of them is split. What is
said of one never repeats it."""

import re
import resource
from itertools import pairwise
from typing import Final

PREFIX: Final = "whsec_"  # of Standard Webhooks: base64 follows
CHARS_MIN: Final = 16  # of one that is given to us; 24 characters of base64 are 18 bytes
BYTES_MIN: Final = 24  # of a `whsec_` that we make or store: what Standard Webhooks asks for

_BASE64: Final = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PLACEHOLDER: Final = re.compile(r"(whsec_)?(put|your|change|replace|insert)([-_][a-z]+){1,8}")
_OTHER_THINGS: Final = (
    (re.compile(r"v1a?,.*"), "begins with `v1,`, which some consoles show: take what is behind it"),
    (re.compile(r"([\"'`]).*\1"), "stands in quotes, which would be a part of it"),
    (re.compile(r"wh[sp]k_.*"), "is a key for asymmetric signatures, which are not understood"),
    (re.compile(r"sha256=.*"), "is a signature, not a secret"),
    (re.compile(r"pbk_.*"), "is an API key, not a signing secret"),
)


def secret_fault(secret: object) -> str | None:
    """Return why this cannot be a signing secret that was given to us, None if it can be: text of
    at least 16 characters, base64 where it begins with `whsec_`."""
    if not isinstance(secret, str):
        return "is not text"
    if not secret.strip() or not secret.removeprefix(PREFIX).strip():
        return "is empty"
    if not secret.isprintable() or any(char.isspace() for char in secret):
        return "has whitespace or a control character in it"
    return mistaken_for_secret(secret) or _key_fault(secret, secret.removeprefix(PREFIX))


def mistaken_for_secret(secret: str) -> str | None:
    """Return what else this is than the secret that somebody took it for, None if it may be one,
    however weak."""
    for form, what in _OTHER_THINGS:
        if form.fullmatch(secret):
            return what
    if secret.startswith(PREFIX) and decoded_bytes(secret) is None:
        return f"begins with {PREFIX}, but no base64 follows: a placeholder, or a part of it"
    return None


def is_weak(secret: str) -> bool:
    """Whether a secret that is in use would not be accepted today: it goes on, and somebody should
    know."""
    if secret.startswith(PREFIX):
        return (decoded_bytes(secret) or 0) < BYTES_MIN
    return len(secret) < CHARS_MIN


def key_fault(key: object) -> str | None:
    """Return why this cannot be a key that opens something of ours, None if it can be: at least 16
    visible ASCII characters."""
    if not isinstance(key, str):
        return "is not text"
    if not re.fullmatch(r"[!-~]*", key):
        return "must be visible ASCII characters, without spaces"
    return _key_fault(key, key)


def split_secrets(text: str) -> tuple[str, ...]:
    """Return the secrets of a list: at line ends, and at commas that can be part of none, since
    whitespace or a `whsec_` secret stands beside them.

    Raises ValueError for other commas, and for `v1,whsec_…`, with what to do about it."""
    secrets: list[str] = []
    for line in text.splitlines():
        pieces = line.split(",")
        for before, after in pairwise(pieces):
            _check_comma(before, after)
        secrets += filter(None, map(str.strip, pieces))
    return tuple(secrets)


def decoded_bytes(secret: str) -> int | None:
    """Return how many bytes the base64 of a secret stands for, None where it is none."""
    text = secret.removeprefix(PREFIX)
    bare = text.rstrip("=")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1:
        return None
    return len(bare) * 3 // 4


def _key_fault(secret: str, text: str) -> str | None:
    if _PLACEHOLDER.fullmatch(secret):
        return "is the placeholder of a sample: put your own in its place"
    if len(text) < CHARS_MIN:
        return f"is too short: it needs at least {CHARS_MIN} characters, made at random"
    return None


def _check_comma(before: str, after: str) -> None:
    if before.strip() in ("v1", "v1a") and after.lstrip().startswith(PREFIX):
        raise ValueError(_OTHER_THINGS[0][1].replace("begins", "a secret begins"))
    certain = (
        not before.strip()
        or not after.strip()
        or before[-1:].isspace()
        or after[:1].isspace()
        or before.lstrip().startswith(PREFIX)
        or after.startswith(PREFIX)
    )
    if not certain:
        raise ValueError(
            "a comma may be part of a secret, or stand between two: put a space behind one that "
            "separates, or each secret on a line of its own"
        )


def write_no_core() -> None:
    """Have this process leave no core file should it crash: that would hold in the clear what is
    sealed everywhere else. Only the soft limit is lowered: `prlimit --core` allows one again."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
