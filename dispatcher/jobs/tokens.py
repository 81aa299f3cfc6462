"""Tokens in the URLs that a call's upstream is given: each is good for one thing, one job and one
claim of it, until it expires. Checking one needs the keys alone. Pure.

A token says what it is for but the job, which stands in the path before it; whose the job is stands
nowhere. It dies with its claim: whether that is the current one is looked at after this.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dispatcher.jobs.macs import mac

Purpose = Literal["progress", "complete"]
"""What a token lets its holder do: tell of progress, or end the job."""

KEY_BYTES: Final = 32
_TOKEN: Final = re.compile(
    r"([1-9][0-9]{0,9})\.([1-9][0-9]{0,17})\.([1-9][0-9]{0,15})\.([A-Za-z0-9_-]{32})"
)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token stands for: a run of a job, the claim that its call was made under, and when
    this ends."""

    job: str
    run: int
    claim: int
    expires_ms: int


def make(key: bytes, purpose: Purpose, grant: Grant) -> str:
    """Return a grant's token, fit for a path."""
    said = f"{grant.run}.{grant.claim}.{grant.expires_ms}"
    return f"{said}.{_mac(key, purpose, grant.job, said)}"


def read(keys: Sequence[bytes], purpose: Purpose, job: str, token: str) -> Grant | None:
    """Return what a token of a job stands for; None for one that none of these keys made for this.
    One that has expired is returned too."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    said, given = token.rpartition(".")[0], found[4]
    # All keys are tried, so that the time tells nothing of which one it was.
    good = [hmac.compare_digest(_mac(key, purpose, job, said), given) for key in keys]
    return Grant(job, int(found[1]), int(found[2]), int(found[3])) if any(good) else None


def _mac(key: bytes, purpose: Purpose, job: str, said: str) -> str:
    return mac(key, f"postback:{purpose}:{job}:{said}")
