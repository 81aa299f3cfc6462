"""What a receiver did in one case, beside what it should have done. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from receiver.conformance.deliveries import Case, Effects
from receiver.conformance.endpoint import Response

Grade: TypeAlias = Literal["ok", "wrong", "advice"]
# All responses to one delivery: after a failure it is sent again, as any sender does.
Responses: TypeAlias = tuple[Response, ...]

BUSY: Final = (429, 503)  # failures that ask the sender to come back
TURNED_AWAY: Final = 429
_UNJUDGED: Final = (
    "it answered 429 at every try, which judges nothing: lift its limit for the check"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table. `why` says what to do about it; empty where all is right."""

    name: str
    should: str
    did: str
    grade: Grade
    why: str = ""


def judge(case: Case, sent: list[Responses], effects: Mapping[str, Effects] | None) -> Finding:
    """Judge a case by the responses to its deliveries and the effects of all jobs (None where those
    cannot be seen)."""
    last = [responses[-1] for responses in sent]
    right = bool(sent) and all(_fits(response, case) for response in last)
    should: str = case.response
    did = _sent_text(sent)
    handled: list[Effects] = []
    if effects is not None and case.effects is not None:
        handled = [effects.get(job, ()) for job in case.jobs]
        right = right and all(one in case.effects for one in handled)
        should += f", handled: {_allowed(case.effects, len(handled))}"
        did += f", handled: {_handled(handled)}"
    grade: Grade = "ok" if right else "advice" if _is_advice(case, last, handled) else "wrong"
    if right and any(_is_rude(one) for responses in sent for one in responses[:-1]):
        grade = "advice"  # nothing is lost, but it looks like an outage to who sends
    why = "" if grade == "ok" else case.why
    if case.response == "4xx" and TURNED_AWAY in last:
        grade, why = "advice", _UNJUDGED
    return Finding(name=case.name, should=should, did=did, grade=grade, why=why)


def is_failure(response: Response) -> bool:
    """Whether a sender tries again soon. (Waiting once for a silent one is enough.)"""
    if isinstance(response, int):
        return response in BUSY or response >= 500
    return response == "closed"


def _is_rude(response: Response) -> bool:
    return is_failure(response) and response not in BUSY


def _fits(response: Response, case: Case) -> bool:
    if isinstance(response, int):
        if response == TURNED_AWAY:
            return False
        return response // 100 == (2 if case.response == "2xx" else 4)
    return response == "closed" and case.may_close


def _is_advice(case: Case, last: list[Response], handled: list[Effects]) -> bool:
    """Whether a wrong response is a matter of advice: to take what may be refused, or the other way
    round. To fail is wrong; so is to take what may only be refused, and make something else of
    it."""
    if case.may_refuse:
        refused = (isinstance(response, int) and response // 100 == 4 for response in last)
        return bool(last) and all(refused) and not any(handled)
    clean = (isinstance(response, int) and response // 100 in (2, 4) for response in last)
    return case.advice and bool(last) and all(clean)


def _sent_text(sent: list[Responses]) -> str:
    if not sent:
        return "not sent: it had stopped answering"
    texts = ["→".join(_word(response) for response in responses) for responses in sent]
    return _counted(texts)


def _word(response: Response) -> str:
    return "no answer" if response == "silent" else str(response)


def _allowed(effects: tuple[Effects, ...], jobs: int) -> str:
    return " or ".join(_handled([one] * jobs) for one in effects)


def _handled(handled: list[Effects]) -> str:
    return _counted(["+".join(one) or "nothing" for one in handled])


def _counted(words: list[str]) -> str:
    """`200 401`, or `3×200 401`."""
    counts = {one: words.count(one) for one in dict.fromkeys(words)}
    return " ".join(one if n == 1 else f"{n}×{one}" for one, n in counts.items())
