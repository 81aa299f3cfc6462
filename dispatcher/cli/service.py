"""The running service as a command sees it: a client, and whether to print for programs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, Final, Self, TypeVar

import msgspec
import typer
from rich.table import Table

from dispatcher.cli import output
from dispatcher.cli.failure import report
from dispatcher.cli.options import Depends
from dispatcher.client import Client, PostbackError, Unauthorized, Unreachable
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
        help="The tenant to act for, with a platform key; otherwise `default`.",
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

    def __enter__(self) -> Self:
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
        response = self.client.raw(call)
        if self.json:
            output.print_json(response.body)
            return None
        return call.read(response)


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


def json_wanted(context: typer.Context, as_json: AsJson = False) -> bool:
    """Whether to print for programs, for commands that need no running service."""
    before: Globals = context.obj or Globals()
    return as_json or before.json


ServiceDep = Annotated[Service, Depends(connect)]
JsonDep = Annotated[bool, Depends(json_wanted)]


def for_each(service: Service, ids: Sequence[str], act: Callable[[Service, str], None]) -> None:
    """Call `act` for each id: one that fails does not stop the rest. Exits with 1 at the end if
    any failed."""
    failed = False
    for id in dict.fromkeys(ids):
        try:
            act(service, id)
        except (Unreachable, Unauthorized):
            raise  # the next one would meet the same
        except PostbackError as error:
            report(error, about=id)
            failed = True
    if failed:
        raise typer.Exit(1)


class RawPage(msgspec.Struct, rename="camel"):
    """A page whose items stay the JSON that they came as."""

    data: list[msgspec.Raw]
    next_cursor: str | None


def pages(service: Service, build: Callable[[str | None], Call[Any]]) -> Iterator[RawPage]:
    """Yield all pages; `build` makes the call for the one at a cursor."""
    cursor = None
    while True:
        page = msgspec.json.decode(service.client.raw(build(cursor)).body, type=RawPage)
        yield page
        cursor = page.next_cursor
        if cursor is None:
            return


def print_list(
    service: Service,
    build: Callable[..., Call[Any]],
    type: type[T],
    table: Table,
    row: Callable[[T], None],
    nothing: str,
) -> None:
    """Print all pages of `build`: for programs an object a line as it came, for people as a table
    to which `row` adds one item, or else the word `nothing`."""
    for page in pages(service, lambda cursor: build(cursor=cursor)):
        if service.json:
            output.print_json_lines(bytes(item) for item in page.data)
        else:
            for item in page.data:
                row(msgspec.json.decode(item, type=type))
    if service.json:
        return
    if table.row_count:
        output.console().print(table)
    else:
        output.error_console().print(nothing, style="dim")
