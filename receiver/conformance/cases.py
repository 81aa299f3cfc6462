"""All that the kit checks, in the order in which it does. Pure."""

from collections.abc import Iterator
from typing import Final

from receiver.conformance.accepting import good, repeated
from receiver.conformance.case import Case, accept
from receiver.conformance.delivery import Signer
from receiver.conformance.forged import forged, stale
from receiver.conformance.malformed import huge, malformed

HUGE_BYTES: Final = 65 * 1024 * 1024  # beyond the largest body that our own can be set to take


def cases(signer: Signer, *, huge_bytes: int = HUGE_BYTES) -> Iterator[Case]:
    """All cases for what this signer signs, made as they are asked for: the last ones are large.
    The first one is the plainest there can be."""
    yield from good(signer)
    yield from repeated(signer)
    yield from forged(signer)
    yield from stale(signer)
    yield from malformed(signer)
    yield from huge(signer, huge_bytes)
    yield accept(
        signer,
        "one more after all that",
        "last",
        signer.deliver(signer.payload("last"), "last"),
        "something above has broken it: look at its log",
    )
