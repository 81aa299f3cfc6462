"""One entry of the route table, from which both the routing and the OpenAPI document are made."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import Response

from dispatcher.api.call import Call
from dispatcher.values import Scope

Handler = Callable[[Call], Awaitable[Response]]
Method = Literal["GET", "POST", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header, as it is documented."""

    name: str
    about: str
    where: Literal["query", "header"] = "query"
    required: bool = False
    type: Any = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path: who may call it, what it takes and what it answers.

    `scope` None is public. `body` is the type of its JSON body, or None where `media` is taken as
    it is. `answers` names what each success status carries: a type, a media type, or nothing.
    `errors` are the codes that this operation adds to those which every one may answer.
    """

    method: Method
    path: str
    handler: Handler
    tag: str
    summary: str
    scope: Scope | None = None
    about: str = ""
    body: Any = None
    media: tuple[str, ...] = ()
    example: Any = None
    parameters: tuple[Parameter, ...] = ()
    answers: Mapping[int, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
