"""Links to outputs that need no key: signed, and good until they expire. Pure.

A link names a run of a job, so that it never shows what another run brought; whose the job is
stands nowhere in it.
"""

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.jobs.macs import mac

_ID: Final = re.compile(r"out_([0-9a-f]{32})_([1-9][0-9]{0,9})")
_EXPIRES: Final = re.compile(r"[1-9][0-9]{0,11}")
_SIGNATURE: Final = re.compile(r"[A-Za-z0-9_-]{32}")


@dataclass(frozen=True, slots=True)
class OutputLink:
    """What a link is to: the output of a job's run, until `expires_s`, in seconds since the Unix
    epoch."""

    job: str
    run: int
    expires_s: int

    @property
    def id(self) -> str:
        """How the output is called."""
        return f"out_{self.job}_{self.run}"


def path(key: bytes, link: OutputLink) -> str:
    """Return the path and query of a link."""
    signature = _mac(key, link)
    return f"/v1/outputs/{link.id}?expires={link.expires_s}&signature={signature}"


def read(keys: Sequence[bytes], id: str, expires: str, signature: str) -> OutputLink | None:
    """Return what a link is to, also where it has expired; None for one that none of these keys
    made."""
    found = _ID.fullmatch(id)
    if found is None or not _EXPIRES.fullmatch(expires) or not _SIGNATURE.fullmatch(signature):
        return None
    link = OutputLink(found[1], int(found[2]), int(expires))
    # All keys are tried, so that the time tells nothing of which one it was.
    good = [hmac.compare_digest(_mac(key, link), signature) for key in keys]
    return link if any(good) else None


def _mac(key: bytes, link: OutputLink) -> str:
    return mac(key, f"postback:output:{link.job}:{link.run}:{link.expires_s}")
