"""API keys without what keeps them: the form of their text, what a key may be bound to, and that
none is made that may do more than the one it is made with. Pure but for the randomness."""

import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from receiver.base.forwarded import Network, within

PREFIX: Final = "pbk_"
_LETTERS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ALPHABET: Final = frozenset(_LETTERS)
_RANDOM_CHARS: Final = 43  # of 62 letters each: 256 bits
_CHECKSUM_CHARS: Final = 6  # hold the 32 bits of a CRC
_EARLIER_CHARS: Final = 43  # base64 of 32 bytes, without a checksum


def new_text() -> str:
    """Return the text of a new key: prefix, 256 random bits, and six letters that tell whether all
    of it is as it was made."""
    random = "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_CHARS))
    return f"{PREFIX}{random}{checksum(random)}"


def checksum(random: str) -> str:
    """Return the checksum of a key's random part: its CRC-32, in digits and letters."""
    number, letters = crc32(random.encode()), ""
    for _ in range(_CHECKSUM_CHARS):
        number, place = divmod(number, len(_LETTERS))
        letters = _LETTERS[place] + letters
    return letters


def is_whole(text: str) -> bool:
    """Return whether this is a key's text to the last letter, whoever made it."""
    body = text.removeprefix(PREFIX)
    random, check = body[:-_CHECKSUM_CHARS], body[-_CHECKSUM_CHARS:]
    is_long = len(text) == len(PREFIX) + _RANDOM_CHARS + _CHECKSUM_CHARS
    return is_long and _ALPHABET.issuperset(body) and check == checksum(random)


def is_mistyped(text: str) -> bool:
    """Return whether this begins as a key of ours does, and cannot be one: a letter is wrong or
    missing. Keys made before had no checksum, and another length."""
    if not text.startswith(PREFIX) or len(text) == len(PREFIX) + _EARLIER_CHARS:
        return False
    return not is_whole(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a key is bound to beside its scopes and its tenant; to nothing where a field is empty.
    `destinations` are registered names and servers (`scheme://host:port`): where it may submit
    to."""

    expires_ms: int | None = None
    networks: tuple[Network, ...] = ()
    destinations: frozenset[str] = frozenset()
    rate_per_second: float | None = None

    def admits(self, address: str) -> bool:
        """Return whether the key may be used from this address."""
        return not self.networks or within(address, self.networks)


UNLIMITED: Final = Limits()


def inherited(parent: Limits, given: Limits) -> Limits:
    """Return the limits of a key that is made with one of `parent`'s: its own where it was given
    some, else the parent's."""
    expires_ms = parent.expires_ms if given.expires_ms is None else given.expires_ms
    rate = parent.rate_per_second if given.rate_per_second is None else given.rate_per_second
    return Limits(
        expires_ms=expires_ms,
        networks=given.networks or parent.networks,
        destinations=given.destinations or parent.destinations,
        rate_per_second=rate,
    )


def excess(parent: Limits, child: Limits) -> str | None:
    """Return which limit of `child` lets it do more than `parent` may, None where none does."""
    if _later(child.expires_ms, parent.expires_ms):
        return "expiresAt"
    if parent.networks and not (child.networks and _inside(child.networks, parent.networks)):
        return "networks"
    if parent.destinations and not (
        child.destinations and child.destinations <= parent.destinations
    ):
        return "destinations"
    return "ratePerSecond" if _later(child.rate_per_second, parent.rate_per_second) else None


def _later(child: float | None, parent: float | None) -> bool:
    return parent is not None and (child is None or child > parent)


def _inside(networks: Iterable[Network], outer: Iterable[Network]) -> bool:
    return all(any(_is_within(one, other) for other in outer) for one in networks)


def _is_within(one: Network, other: Network) -> bool:
    return one.version == other.version and one.subnet_of(other)  # type: ignore[arg-type]  # same
