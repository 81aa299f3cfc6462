"""How answers are read. What is not this version of Postback's raises BadAnswer."""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from dispatcher.client.errors import BadAnswer
from dispatcher.client.transport import Response
from dispatcher.wire import Page

T = TypeVar("T")
NO_CONTENT: Final = 204


def json(type: type[T]) -> Callable[[Response], T]:
    """Return what reads one JSON value of this type."""

    def reads(response: Response) -> T:
        return decode(response.body, type, response.status)

    return reads


def page(type: type[T]) -> Callable[[Response], Page[T]]:
    """Return what reads `{"data": […], "nextCursor": …}`."""
    return json(Page[type])  # type: ignore[valid-type]  # a type at run time


def nothing(response: Response) -> None:
    """Raise BadAnswer unless the service says that it is done, for which it has no other words."""
    if response.status != NO_CONTENT or response.body:
        raise BadAnswer.of(response.status, "it should be 204, without a body")


def decode(body: bytes, type: type[T], status: int) -> T:
    """Return a JSON value of this type."""
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer.of(status, error) from None
