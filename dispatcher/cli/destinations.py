"""`dispatcher destinations`: where deliveries go, their limits and their health."""

from typing import Annotated, Any, Final

import typer
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.replay import WAIT_S, start
from dispatcher.cli.service import ChangingDep, Service, ServiceDep, print_list
from dispatcher.cli.show import met, why
from dispatcher.client import Destination, Filters, NotFound
from dispatcher.client.calls import destination as calls
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.options import command

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|ID|URL", help="A registered name, an id, or a URL of one without a name."
    ),
]
PolicyText = Annotated[
    str | None, typer.Option("--policy", metavar="NAME|JSON", help="How it is retried.")
]
HeaderTexts = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Added to each delivery (repeatable)."),
]
Concurrency = Annotated[
    int | None, typer.Option(min=1, max=65_536, metavar="N", help="Most attempts at once.")
]
Rate = Annotated[
    float | None, typer.Option(min=0.001, max=10_000, metavar="N", help="Deliveries a second.")
]
TestUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="This URL of its server, not the one used last."),
]
_RESETS: Final = {
    "policy": "policy",
    "headers": "headers",
    "concurrency": "concurrency",
    "rate": "ratePerSecond",
}


app = typer.Typer()
group = typer.Typer(no_args_is_help=True)
app.add_typer(group, name="destinations", help="Where deliveries go: limits, health, backlog")


@command(group, "list", "dispatcher destinations list")
def list_destinations(service: ServiceDep) -> None:
    """List them, with what waits for each, what holds it and what its last attempt met."""
    made = cli.table(
        *("HEALTH", "BACKLOG", "DESTINATION"),
        right=("BACKLOG",),
        widths=options.STATE_WIDTHS,
        fold="DESTINATION",
    )

    def row(destination: Destination) -> None:
        who = destination.name or destination.id
        about = Text("  ").join(part for part in (_held(destination), _error(destination)) if part)
        head = cli.plain(who, "bold").append("  ").append_text(about)
        made.add_row(
            _health(destination),
            _backlog(destination),
            cli.lines(head, cli.plain(destination.url, "dim")),
        )

    print_list(service, calls.destinations, made, row, "no destinations yet")


@command(group, "show", "dispatcher destinations show billing")
def show_destination(service: ServiceDep, name: Name) -> None:
    """Show one: its limits, its health, its backlog."""
    _print(service.show(calls.get_destination(id_of(service, name))))


@command(
    group, "add", "dispatcher destinations add billing https://example.com/hooks --concurrency 8"
)
def add_destination(
    service: ChangingDep,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.")],
    to: Annotated[str, typer.Argument(metavar="URL", help="Where its deliveries go.")],
    policy: PolicyText = None,
    header: HeaderTexts = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
) -> None:
    """Register a URL by name, with a signing secret of its own: shown once, here."""
    made = service.show(
        calls.register_destination(
            name,
            to,
            policy=options.policy(policy),
            headers=options.headers(header),
            concurrency=concurrency,
            rate_per_second=rate,
            reason=service.reason,
        )
    )
    _print(made)
    if made is not None and made.secret is not None:
        cli.console().print()
        cli.console().print(
            Text("signing secret, for the receiver  ", style="dim").append(made.secret, "bold")
        )


@command(group, "set", "dispatcher destinations set billing --rate 50 --reset policy")
def set_destination(
    service: ChangingDep,
    name: Name,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Its new URL.")] = None,
    policy: PolicyText = None,
    header: HeaderTexts = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
    reset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT",
            help=f"Put one back to its default (repeatable): {', '.join(_RESETS)}.",
        ),
    ] = None,
) -> None:
    """Change its URL, limits, policy or headers; its backlog follows them."""
    fields: dict[str, Any] = {
        "url": to,
        "policy": options.policy(policy),
        "headers": options.headers(header),
        "concurrency": concurrency,
        "ratePerSecond": rate,
    }
    changes = {key: value for key, value in fields.items() if value is not None}
    for what in reset or ():
        if what not in _RESETS:
            raise typer.BadParameter(f"--reset {what!r} must be one of {', '.join(_RESETS)}")
        if _RESETS[what] in changes:
            raise typer.BadParameter(f"--reset {what} and --{what} exclude each other")
        changes[_RESETS[what]] = None
    if not changes:
        raise typer.BadParameter("nothing to change: give at least one option")
    _change(service, name, changes)


@command(group, "pause", "dispatcher destinations pause billing")
def pause(service: ChangingDep, name: Name) -> None:
    """Send nothing for now. Its backlog is kept."""
    _change(service, name, {"paused": True})


@command(group, "resume", "dispatcher destinations resume billing")
def resume(service: ChangingDep, name: Name) -> None:
    """Send again; resuming also closes its circuit. What waits for its next try keeps its time:
    `destinations retry` hurries it."""
    _change(service, name, {"paused": False})


@command(
    group,
    "retry",
    "dispatcher destinations retry billing",
    "dispatcher destinations retry https://example.com --rate 20 --no-wait",
)
def retry(
    service: ChangingDep,
    name: Name,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=10_000, metavar="N", help="At most N a second."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until each was tried, for a minute at most.")
    ] = True,
) -> None:
    """Try now what waits for its next try, and close its circuit: for after an outage. At the end
    it says what was delivered and what failed again."""
    found = service.client.get_destination(id_of(service, name))
    if found.paused:
        raise Failed(f"{name} is paused", f"dispatcher destinations resume {name}")
    filters: Filters = {"destination": found.id, "status": "pending"}
    start(service, filters, rate, WAIT_S, wait=wait)


@command(group, "disable", "dispatcher destinations disable billing --yes")
def disable(
    service: ChangingDep,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take no more callbacks for it, and make its backlog dead (it can be replayed)."""
    cli.confirm(f"Disable {name} and make its backlog dead?", yes=yes)
    _change(service, name, {"disabled": True})


@command(group, "enable", "dispatcher destinations enable billing")
def enable(service: ChangingDep, name: Name) -> None:
    """Take callbacks for it again. What died meanwhile waits for a replay."""
    _change(service, name, {"disabled": False})


@command(group, "remove", "dispatcher destinations remove billing --yes")
def remove(
    service: ChangingDep,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget it and its secret; its backlog is made dead."""
    cli.confirm(f"Remove {name}, its secret and its backlog?", yes=yes)
    service.client.remove_destination(id_of(service, name), reason=service.reason)
    if service.json:
        cli.print_json(b"{}")
    else:
        cli.console().print(f"{cli.clean(name)} is removed")


@command(group, "test", "dispatcher destinations test billing")
def test(service: ChangingDep, name: Name, to: TestUrl = None) -> None:  # noqa: PT028 - a command
    """Send a signed test callback now and show its outcome. Exits with 1 unless it was
    acknowledged."""
    call = calls.test_destination(id_of(service, name), url=to, reason=service.reason)
    response = service.client.raw(call)
    attempt = call.read(response)
    if service.json:
        cli.print_json(response.body)
    else:
        line = Text(
            "● " if attempt.acknowledged else "✗ ", "green" if attempt.acknowledged else "red"
        )
        took = cli.span(attempt.duration_ms / 1000)
        line.append_text(cli.plain(f"{met(attempt)} in {took}"))
        cli.console().print(line)
        for text in why(attempt):
            cli.console().print(cli.plain(f"  {text}", "dim"), soft_wrap=True)
    if not attempt.acknowledged:
        raise typer.Exit(1)


def id_of(service: Service, name: str) -> str:
    """Return what names a destination in a path: of a URL the id of its server. Raises NotFound."""
    if not name.lower().startswith(("http://", "https://")):
        return name
    found = service.client.destinations_of(name).data
    if not found:
        raise NotFound("NOT_FOUND", f"nothing was sent to the server of {name} lately", status=404)
    return found[0].id


def _change(service: Service, name: str, changes: dict[str, Any]) -> None:
    _print(
        service.show(calls.change_destination(id_of(service, name), changes, reason=service.reason))
    )


def _print(destination: Destination | None) -> None:
    if destination is None:
        return
    out = cli.console()
    title = cli.plain(destination.name or destination.id, "bold").append("  ")
    out.print(title.append_text(_health(destination)))
    for label, text in _facts(destination).items():
        if text:
            out.print(Text(f"  {label:<13}", style="dim").append_text(cli.plain(text)))


def _facts(destination: Destination) -> dict[str, str]:
    rate = destination.rate_per_second
    concurrency = destination.concurrency
    return {
        "id": destination.id if destination.name else "",
        "url": destination.url,
        "last used": destination.last_url or "",
        "backlog": f"{_backlog(destination)} waiting, {destination.sending:,} in flight",
        "held": _held(destination).plain,
        "disabled": destination.disabled_reason or "",
        "failures": f"{destination.failures:,} in a row" if destination.failures else "",
        "last error": destination.last_error or "",
        "concurrency": "" if concurrency is None else f"{concurrency:,} at once",
        "rate": "" if rate is None else f"{rate:g} a second",
        "headers": destination.headers_unopened or ", ".join(destination.header_names),
    }


def _backlog(destination: Destination) -> str:
    return f"{destination.backlog:,}{'' if destination.backlog_exactly else '+'}"


def _health(destination: Destination) -> Text:
    """Return its health in a word, and what it answers where it refuses what comes."""
    found = options.word("paused" if destination.paused else destination.health)
    if destination.health == "rejecting" and not destination.paused:
        found.append(f" ({(destination.last_error or '').removeprefix('http_')})")
    return found


def _error(destination: Destination) -> Text:
    """Return what its last attempt met, unless its health says so."""
    if destination.last_error is None or destination.health == "rejecting":
        return Text()
    return cli.plain(f"last {destination.last_error}", "red")


def _held(destination: Destination) -> Text:
    if destination.held_reason is None:
        return Text()
    until = destination.held_until
    when = "" if until is None else f", again {cli.ago(until)}"
    return cli.plain(f"{destination.held_reason}{when}", "yellow")
