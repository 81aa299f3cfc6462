"""What a receiver did in one case, beside what it should have done. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from receiver.conformance.case import Case, Effects
from receiver.conformance.link import Answer

Grade: TypeAlias = Literal["ok", "wrong", "advice"]
# All answers to one delivery: after a failure it is sent again, as any sender does.
Sent: TypeAlias = tuple[Answer, ...]

BUSY: Final = (429, 503)  # failures that are said politely


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table. `why` says what to do about it; empty where all is right."""

    name: str
    should: str
    did: str
    grade: Grade
    why: str = ""


def judge(case: Case, sent: list[Sent], effects: Mapping[str, Effects] | None) -> Finding:
    """`effects` are those of all jobs, or None where they cannot be seen."""
    last = [answers[-1] for answers in sent]
    right = bool(sent) and all(_fits(answer, case) for answer in last)
    should: str = case.answer
    did = _told(sent)
    if effects is not None and case.effects is not None:
        found = [effects.get(job, ()) for job in case.jobs]
        right = right and all(one in case.effects for one in found)
        should += f", handled: {_allowed(case.effects, len(found))}"
        did += f", handled: {_handled(found)}"
    grade: Grade = "ok" if right else "advice" if _is_advice(case, last) else "wrong"
    if right and any(_is_rude(one) for answers in sent for one in answers[:-1]):
        grade = "advice"  # nothing is lost, but it looks like an outage to who sends
    why = "" if grade == "ok" else case.why
    return Finding(name=case.name, should=should, did=did, grade=grade, why=why)


def is_failure(answer: Answer) -> bool:
    """Whether a sender tries again soon. (Waiting once for who is silent is enough.)"""
    if isinstance(answer, int):
        return answer in BUSY or answer >= 500
    return answer == "closed"


def _is_rude(answer: Answer) -> bool:
    return is_failure(answer) and answer not in BUSY


def _fits(answer: Answer, case: Case) -> bool:
    if isinstance(answer, int):
        return answer // 100 == (2 if case.answer == "2xx" else 4)
    return answer == "closed" and case.may_close


def _is_advice(case: Case, last: list[Answer]) -> bool:
    """Judge a refusal: taking what could be refused is advice, and so is the other way round;
    failing is wrong."""
    clean = (isinstance(answer, int) and answer // 100 in (2, 4) for answer in last)
    return case.advice and bool(last) and all(clean)


def _told(sent: list[Sent]) -> str:
    if not sent:
        return "not sent: it had stopped answering"
    told = ["→".join(_word(answer) for answer in answers) for answers in sent]
    return _counted(told)


def _word(answer: Answer) -> str:
    return "no answer" if answer == "silent" else str(answer)


def _allowed(effects: tuple[Effects, ...], jobs: int) -> str:
    return " or ".join(_handled([one] * jobs) for one in effects)


def _handled(found: list[Effects]) -> str:
    return _counted(["+".join(one) or "nothing" for one in found])


def _counted(words: list[str]) -> str:
    """`200 401`, or `3×200 401`."""
    counts = {one: words.count(one) for one in dict.fromkeys(words)}
    return " ".join(one if n == 1 else f"{n}×{one}" for one, n in counts.items())
