"""The running service as a command sees it: a client, and whether to print for programs."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self, TypeVar

import msgspec
import typer
from rich.table import Table

from dispatcher.audit import reason_fault
from dispatcher.cli import options
from dispatcher.cli.shared import ApiKey, Globals, Tenant, Url
from dispatcher.client import (
    BadAnswer,
    Client,
    Forbidden,
    NotFound,
    Page,
    PostbackError,
    QueueFull,
    RateLimited,
    StorageFull,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from dispatcher.client.calls.build import one_value
from dispatcher.client.transport import Call, Response
from dispatcher.settings import CA_FILE, load_client
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.options import (
    PANEL,
    AsJson,
    Depends,
    Output,
    Printing,
    Profile,
    print_rows,
    printing,
)
from receiver.base.tls import trusted

T = TypeVar("T")
_HINTS: Final[tuple[tuple[type[PostbackError], str], ...]] = (
    (Unreachable, "is it running? start it with: dispatcher serve (another place: --url)"),
    (
        Unauthorized,
        "set DISPATCHER_API_KEY to a key of the service; its first start printed one",
    ),
    (Forbidden, "use a key that may do that: dispatcher keys create --help"),
    (NotFound, "check the name or id; for another tenant's: --tenant NAME"),
    (BadAnswer, "is that really the dispatcher's URL? (--url, DISPATCHER_URL)"),
    (
        RateLimited,
        "ask more slowly; a tenant's rate is raised by: dispatcher tenants set NAME --rate "
        "PER_SECOND, a key's by making another",
    ),
    (QueueFull, "see what is waiting: dispatcher stats"),
    (StorageFull, "see whose limit it is: dispatcher tenants show NAME, dispatcher doctor"),
    (Unavailable, "try again in a moment; see: dispatcher doctor"),
    (WaitTimeout, "it is still on its way; look again with: dispatcher show ID, or jobs show ID"),
)

Reason = Annotated[
    str | None,
    typer.Option(
        "--reason", metavar="TEXT", help="Why: kept in the audit trail.", rich_help_panel=PANEL
    ),
]


class Service:
    """One command's way to the service. `json`: print for programs; `reason`: why it changes
    something; `tenant`: for whom, where that was said."""

    def __init__(self, client: Client, printing: Printing, tenant: str | None = None) -> None:
        self.client = client
        self.json = printing.json
        self.tenant = tenant
        self.reason: str | None = None
        self._printing = printing

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
        """Make the call and read its answer. For programs that is printed as it came, and None
        returned."""
        response = self._raw(call)
        value = call.read(response)
        if self.json:
            cli.print_json(response.body)
            return None
        return value

    def call(self, call: Call[T]) -> T:
        """Make the call and read its answer."""
        return call.read(self._raw(call))

    def _raw(self, call: Call[T]) -> Response:
        response = self.client.raw(call)
        made = response.headers.get("postback-tenant-created")
        if made is not None:
            self._tell_of(made)
        return response

    def _tell_of(self, tenant: str) -> None:
        cli.error_console().print(
            cli.plain(
                f"the tenant {tenant} is new: made just now, with a signing secret of its own",
                "yellow",
            )
        )

    def note_new_tenant(self) -> None:
        """Say so where what is sent will make its tenant."""
        if self.tenant is not None and self._is_new(self.tenant):
            self._tell_of(self.tenant)

    def _is_new(self, tenant: str) -> bool:
        try:
            self.client.get_tenant(tenant)
        except NotFound:
            return True
        except PostbackError:  # not for this key to know
            pass
        return False

    def print_rows(self, rows: Iterable[bytes]) -> None:
        """Print JSON documents for programs: one a line, or all as one array."""
        print_rows(self._printing, rows)

    def print_document(self, body: bytes) -> None:
        """Print a document with a list (`data`) for programs: as it came where it was asked for as
        one, else an object a line."""
        if self._printing.array:
            cli.print_json(body)
        else:
            cli.print_json_lines(map(bytes, msgspec.json.decode(body, type=RawPage).data))

    def hint_at_tenant(self) -> None:
        """Say so where nothing was found since there is no such tenant."""
        if self.tenant is None or not self._is_new(self.tenant):
            return
        names = [tenant.name for tenant in self.client.tenants()]
        near = get_close_matches(self.tenant, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "see: dispatcher tenants"
        cli.error_console().print(cli.plain(f"there is no tenant {self.tenant}: {hint}", "yellow"))


def connect(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    tenant: Tenant = None,
    profile: Profile = None,
    as_json: AsJson = False,
    output: Output = None,
) -> Service:
    """Return the service that the options, or else a profile or the environment, name."""
    before: Globals = context.obj or Globals()
    found = load_client(profile=profile or before.profile)
    where = url or before.url or found.url
    named = tenant or before.tenant or found.tenant
    # Reading authorities takes 20 ms: only where there is a file, and somebody to trust.
    private = found.ca_file is not None and where.startswith("https:")
    try:
        client = Client(
            where,
            api_key or before.api_key or found.api_key,
            tenant=named,
            tls=trusted(CA_FILE, found.ca_file) if private else None,
            retries=2,
            retry_for_s=10,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Service(client, printing(as_json, output, before.printing), named)


def connect_to_change(
    context: typer.Context,
    url: Url = None,
    api_key: ApiKey = None,
    tenant: Tenant = None,
    profile: Profile = None,
    as_json: AsJson = False,
    output: Output = None,
    reason: Reason = None,
) -> Service:
    """Return the service, for a command that changes something there."""
    fault = None if reason is None else reason_fault(reason)
    if fault is not None:
        raise typer.BadParameter(f"--reason {fault}")
    service = connect(context, url, api_key, tenant, profile, as_json, output)
    service.reason = reason
    return service


ServiceDep = Annotated[Service, Depends(connect)]
ChangingDep = Annotated[Service, Depends(connect_to_change)]


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
            failure = explain(error, about=id)
            cli.say(str(failure), failure.hint)
            failed = True
    if failed:
        raise typer.Exit(1)


def explain(error: PostbackError, *, about: str | None = None) -> Failed:
    """Return what is printed of an error of the service, or of the way to it."""
    head = f"{about}: " if about and about not in error.message else ""
    hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), None)
    return Failed(f"{head}{error.message}", hint)


class RawPage(msgspec.Struct, rename="camel"):
    """A page whose items stay the JSON that they came as."""

    data: list[msgspec.Raw]
    next_cursor: str | None = None


def pages(
    service: Service, build: Callable[[str | None], Call[Page[T]]]
) -> Iterator[list[tuple[T, bytes]]]:
    """Yield all pages, each item with the JSON that it came as; `build` makes the call for the one
    at a cursor."""
    cursor = None
    while True:
        call = build(cursor)
        response = service.client.raw(call)
        page = call.read(response)
        came = msgspec.json.decode(response.body, type=RawPage)
        yield list(zip(page.data, map(bytes, came.data), strict=True))
        cursor = page.next_cursor
        if cursor is None:
            return


def print_list(
    service: Service,
    build: Callable[..., Call[Page[T]]],
    table: Table,
    row: Callable[[T], None],
    nothing: str,
) -> None:
    """Print all pages of `build`: for programs an object a line as it came, for people as a table
    to which `row` adds one item, or else the word `nothing`."""
    found = pages(service, lambda cursor: build(cursor=cursor))
    if service.json:
        service.print_rows(came for page in found for _, came in page)
        return
    for page in found:
        for item, _ in page:
            row(item)
    if table.row_count:
        cli.console().print(table)
    else:
        cli.error_console().print(nothing, style="dim")


def payload_of(text: str, option: str = "--payload") -> bytes:
    """Return the JSON that an option names: a file, `-` for standard input, or the JSON itself; its
    bytes are kept as they are."""
    if text == "-":
        body, where = sys.stdin.buffer.read(), "standard input"
    elif _is_file(text):
        body, where = options.read_file(Path(text)), text
    else:
        body, where = text.encode(errors="surrogateescape"), option
    try:
        one_value(body)
    except ValueError as error:
        hint = f", nor is there a file {text[:60]!r}" if where == option else ""
        raise typer.BadParameter(f"{where} is not JSON: {error}{hint}") from None
    return body.strip()


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a file's name can be
        return False
