"""The customer's code: which function handles which status."""

import inspect
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from receiver.base.completion import STATUSES

Function = TypeVar("Function", bound=Callable[..., Any])

ANY: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function `(event)` or `(event, tx)`, sync or async."""

    function: Callable[..., Any]
    takes_tx: bool
    is_async: bool

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)


class Handlers:
    """At most one handler for each status, and one for all others. One message, one handler: what
    "handled" means would be unclear with two of which one failed."""

    def __init__(self) -> None:
        self._by_status: dict[str, Handler] = {}
        self.is_open = False  # whether messages are handled by them already

    def add(self, function: Callable[..., Any], *statuses: str) -> None:
        """Raise ValueError for a status that is unknown or taken, TypeError for a function that
        takes anything but `(event)` or `(event, tx)`, RuntimeError while they are at work."""
        handler = describe(function)
        if self.is_open:
            raise RuntimeError(f"{handler.name} comes too late: register it before the start")
        if not statuses:
            raise ValueError(f"say which status {handler.name} handles, or '*' for every one")
        for status in statuses:
            if status not in (*STATUSES, ANY):
                raise ValueError(f"{status!r} is none of: {', '.join((*STATUSES, ANY))}")
            if status in self._by_status:
                taken = self._by_status[status].name
                raise ValueError(f"{status!r} is handled by {taken} already")
        for status in statuses:
            self._by_status[status] = handler

    def find(self, status: str) -> Handler | None:
        """Return the handler of a canonical status: its own, else the one for every status."""
        return self._by_status.get(status) or self._by_status.get(ANY)

    def __bool__(self) -> bool:
        return bool(self._by_status)

    @property
    def take_tx(self) -> list[str]:
        """The names of the handlers that take a transaction."""
        return sorted({h.name for h in self._by_status.values() if h.takes_tx})


def describe(function: Callable[..., Any]) -> Handler:
    """Return what a function takes and how it runs. Raises TypeError."""
    if not callable(function):
        raise TypeError(f"{reprlib.repr(function)} is not a function")
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    parameters = inspect.signature(function).parameters.values()
    taken = [p for p in parameters if p.kind in positional]
    needed = [p for p in taken if p.default is p.empty]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if keywords or len(needed) > 2 or not taken:
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{name} must take (event) or (event, tx)")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose call is async
    )
    return Handler(function=function, takes_tx=len(needed) == 2, is_async=is_async)
