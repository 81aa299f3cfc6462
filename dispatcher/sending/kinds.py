"""What answers of certain kinds of upstreams say: the output alone, out of what is around it, never
written anew."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec

from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.kinds import JSON
from dispatcher.jobs.values import CallOutcome, Output

_NULL: Final = msgspec.Raw(b"null")
_TEXT: Final = "text/plain; charset=utf-8"
_PERCENT: Final = re.compile(r"(?:^|[^0-9.])(100|[0-9]{1,2})%\|")  # as tqdm writes it

PredictionState = Literal["running", "completed", "failed", "cancelled"]
_STATES: Final[Mapping[str, PredictionState]] = {
    "starting": "running",
    "processing": "running",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "cancelled",
}


class _Answer(msgspec.Struct):
    """What both say."""

    status: str
    output: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    logs: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a cog server says of one: its state, the output of one that is over, or why there is
    none; of one that runs how far it is, as far as its log tells."""

    state: PredictionState
    output: Output
    step: str | None = None
    percent: float | None = None
    is_too_large: bool = False  # what it brought is more than its endpoint takes


def read(rules: EndpointRules, outcome: CallOutcome) -> CallOutcome:
    """Return what a call met, as its upstream's kind means it: the output alone, out of what is
    around it, and whether that says that the job failed."""
    if rules.kind == "http" or outcome.kind != "answered" or outcome.output is None:
        return outcome
    if not 200 <= (outcome.status_code or 0) < 300:
        return outcome
    if rules.kind == "runpod":
        return _read_runpod(outcome, outcome.output)
    return _read_cog(outcome, outcome.output)


def _read_runpod(outcome: CallOutcome, output: Output) -> CallOutcome:
    try:
        said = msgspec.json.decode(output.body, type=_Answer)
    except (msgspec.DecodeError, RecursionError):
        return outcome
    if said.status == "COMPLETED":
        return replace(outcome, output=_json(said.output))
    if said.status in ("FAILED", "TIMED_OUT", "CANCELLED"):
        return replace(outcome, output=_error(said.error, said.status), failed=True)
    return outcome


def _read_cog(outcome: CallOutcome, output: Output) -> CallOutcome:
    """Read the answer of a server that waited for the end all the same."""
    prediction = prediction_of(output.body)
    if prediction is None or prediction.state == "running":
        return outcome
    return replace(outcome, output=prediction.output, failed=prediction.state != "completed")


def prediction_of(body: bytes) -> Prediction | None:
    """Return what a cog server says of a prediction; None for what is nothing of the kind."""
    try:
        said = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, RecursionError):
        return None
    state = _STATES.get(said.status)
    if state is None:
        return None
    if state == "completed":
        return Prediction(state=state, output=_json(said.output))
    if state == "running":
        step, percent = _last_line(said.logs)
        return Prediction(state=state, output=_json(_NULL), step=step, percent=percent)
    why = (
        "the upstream cancelled it" if state == "cancelled" else "the upstream says that it failed"
    )
    return Prediction(state=state, output=_error(said.error, why))


def _last_line(logs: str | None) -> tuple[str | None, float | None]:
    """Return the last line of a log, and how far it says that things are."""
    lines = [one for one in re.split(r"[\r\n]+", logs or "") if one.strip()]
    if not lines:
        return None, None
    found = _PERCENT.search(lines[-1])
    return lines[-1].strip(), None if found is None else float(found[1])


def _json(value: msgspec.Raw) -> Output:
    """Return a value as it was written; that there is none is null."""
    return Output(body=bytes(value), content_type=JSON)


def _error(value: msgspec.Raw, instead: str) -> Output:
    """Return an error: a text as what it says, anything else as it was written."""
    try:
        text = msgspec.json.decode(value, type=str | None)
    except msgspec.DecodeError:
        return _json(value)
    return Output(body=(text or instead).encode(errors="replace"), content_type=_TEXT)
