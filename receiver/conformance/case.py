"""One case: its deliveries, and what a receiver must make of them. Pure."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from receiver.conformance.delivery import Delivery, Signer

Expected: TypeAlias = Literal["2xx", "4xx"]
Effects: TypeAlias = tuple[str, ...]  # the statuses that a job's handler was handed, in order

NOTHING: Final[tuple[Effects, ...]] = ((),)
ONCE: Final[tuple[Effects, ...]] = (("completed",),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Deliveries, sent in turn (`at_once`: together), and what must become of them.

    `effects` are what the handler of every one of `jobs` may have been handed in the end; None
    where the case says nothing of that. `advice` marks what a receiver may do otherwise without
    losing or doubling a completion. `why` says what to do about it where it goes wrong.
    """

    name: str
    deliveries: list[Delivery] = field(repr=False)
    answer: Expected
    why: str
    at_once: bool = False
    jobs: tuple[str, ...] = ()
    effects: tuple[Effects, ...] | None = None
    advice: bool = False
    may_close: bool = False  # ending the connection is an answer too


def accept(
    signer: Signer, name: str, job: str, delivery: Delivery, why: str, *, advice: bool = False
) -> Case:
    """One delivery that must be taken, and handled once."""
    return Case(
        name=name,
        deliveries=[delivery],
        answer="2xx",
        why=why,
        jobs=(signer.job(job),),
        effects=ONCE,
        advice=advice,
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
    """One delivery that must be refused; `job`, where it names one, must not be handled."""
    return Case(
        name=name,
        deliveries=[delivery],
        answer="4xx",
        why=why,
        jobs=(job,) if job else (),
        effects=NOTHING if job else None,
        advice=advice,
        may_close=may_close,
    )
