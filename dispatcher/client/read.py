"""From an answer's bytes to typed results. What is not Postback's becomes BadAnswer."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from dispatcher.client.call import Answer
from dispatcher.client.errors import BadAnswer, of_shape
from dispatcher.client.results import LineResult, Page, Payload, Result, Submitted

T = TypeVar("T")
_Read = Callable[[Answer], T]


class _Line(Result, frozen=True, kw_only=True):
    """One line of a batch's answer: a submit's answer, or an error with its HTTP status."""

    line: int
    status: int | str
    error: str | None = None


def as_json(type: type[T]) -> _Read[T]:
    """Read one JSON value of this type."""

    def read(answer: Answer) -> T:
        return _decode(answer.body, type, answer.status)

    return read


def as_page(type: type[T]) -> _Read[Page[T]]:
    """Read `{"data": […], "nextCursor": …}`."""

    def read(answer: Answer) -> Page[T]:
        return _decode(answer.body, Page[type], answer.status)  # type: ignore[valid-type]  # a type at run time

    return read


def as_list(type: type[T]) -> _Read[list[T]]:
    """Read the data of a list that is always one page."""

    def read(answer: Answer) -> list[T]:
        return as_page(type)(answer).data

    return read


def as_payload(answer: Answer) -> Payload:
    """Read the bytes as they are."""
    kind = answer.headers.get("content-type", "application/octet-stream")
    return Payload(body=answer.body, content_type=kind)


def as_nothing(answer: Answer) -> None:
    """There is nothing to read."""


def _decode(body: bytes, type: type[T], status: int) -> T:
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer(
            "BAD_ANSWER",
            f"HTTP {status} with an answer that is not this version of Postback's: {error}",
            status=status,
        ) from None


def as_lines(answer: Answer, count: int) -> list[LineResult]:
    """Read a batch's answer: one line for each of the `count` that were sent, in their order."""
    lines = [line for line in answer.body.split(b"\n") if line.strip()]
    found = [_line(line, answer.status) for line in lines]
    if [result.n for result in found] != list(range(1, count + 1)):
        raise BadAnswer(
            "BAD_ANSWER",
            f"{count} callbacks were sent and {len(found)} answered: send them again",
            status=answer.status,
        )
    return found


def _line(line: bytes, status: int) -> LineResult:
    shape = _decode(line, _Line, status)
    if shape.error is None:
        return LineResult(n=shape.line, submitted=_decode(line, Submitted, status), raw=line)
    code = shape.status if isinstance(shape.status, int) else status
    error = of_shape(code, _decode(line, dict[str, Any], status))
    return LineResult(n=shape.line, error=error, raw=line)
