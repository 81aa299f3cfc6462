"""What a forked child must not keep. It inherits all that is open, whatever is said about exec: one
that outlives us would hold our locks and our address, and the next start would find them taken."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_HELD: Final[WeakKeyDictionary[object, Callable[[Any], object]]] = WeakKeyDictionary()


def not_for_children(one: T, let_go: Callable[[T], object]) -> T:
    """Return `one`, for which `let_go` is called in each child that this process forks. It must
    be fit for a child: close, and nothing else."""
    _HELD[one] = let_go
    return one


def _let_go() -> None:
    for one, let_go in list(_HELD.items()):
        with suppress(OSError):
            let_go(one)


os.register_at_fork(after_in_child=_let_go)
