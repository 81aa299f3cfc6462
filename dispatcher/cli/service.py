"""The running service as a command sees it: a client, and whether to print for programs."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Final, TypeVar

import typer

from dispatcher.cli.output import print_json
from dispatcher.client import Client
from dispatcher.client.transport import Call
from dispatcher.settings import load_client

T = TypeVar("T")
_PANEL: Final = "The service"

Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Where it is; otherwise DISPATCHER_URL, else host and port.",
        rich_help_panel=_PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Otherwise DISPATCHER_API_KEY, which other users of this machine cannot see.",
        rich_help_panel=_PANEL,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose callbacks, where a platform key asks; otherwise `default`.",
        rich_help_panel=_PANEL,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON for programs; of lists one object a line."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The shared options as given before the command's name."""

    url: str | None = None
    api_key: str | None = None
    tenant: str | None = None
    json: bool = False


class Service:
    """One command's way to the service. `json`: print for programs."""

    def __init__(self, client: Client, *, json: bool) -> None:
        self.client = client
        self.json = json

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()

    def show(self, call: Call[T]) -> T | None:
        """Make the call. For programs its JSON is printed as it came, and None returned."""
        answer = self.client.raw(call)
        if self.json:
            print_json(answer.body)
            return None
        return call.read(answer)


def connect(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> Service:
    """Return the service that the options, or else the environment, name."""
    before: Globals = context.obj or Globals()
    found = load_client()
    try:
        client = Client(
            url or before.url or found.url,
            api_key or before.api_key or found.api_key,
            tenant=tenant or before.tenant,
            retries=2,
            retry_for_s=10,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Service(client, json=as_json or before.json)


SERVICE: Final[dict[str, Callable[..., object]]] = {"service": connect}
"""What most commands need beside their own options."""


def json_wanted(context: typer.Context, as_json: AsJson = False) -> bool:
    """Whether to print for programs, for commands that need no running service."""
    before: Globals = context.obj or Globals()
    return as_json or before.json
