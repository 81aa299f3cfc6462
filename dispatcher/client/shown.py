"""How a client's methods look to `help()` and editors at run time."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar, get_args

M = TypeVar("M", bound=Callable[..., Any])


def as_built_by(build: Callable[..., Any], method: M) -> M:
    """Return `method` with the parameters of what builds its call, behind `self`, and with what
    comes of the call in place of the call."""
    found = signature(build)
    itself = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
    of = get_args(found.return_annotation)
    method.__signature__ = Signature(  # type: ignore[attr-defined]  # read by inspect
        [itself, *found.parameters.values()], return_annotation=of[0] if of else Signature.empty
    )
    return method
