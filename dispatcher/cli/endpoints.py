"""`dispatcher endpoints` and `dispatcher apply`: the upstreams that jobs are run at."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.service import ChangingDep, ServiceDep, payload_of, print_list
from dispatcher.client import Endpoint, NotFound
from dispatcher.client.calls import endpoint as calls
from dispatcher.gateway.apply import ApplyError, read
from dispatcher.jobs.fields import camel
from dispatcher.jobs.rules import merged
from dispatcher.wire_jobs import MeasureView
from receiver.base import cli
from receiver.base.options import command, duration_s

Name = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name.")]
Fields = Annotated[
    list[str],
    typer.Argument(
        metavar="FIELD=VALUE",
        help="As in a file: `concurrency=8 timeout=15m keep.output=1d busy=429,503 "
        "headers.Authorization='Bearer secret:gpu'`; with no value, back to the default.",
    ),
]
Input = Annotated[
    str | None,
    typer.Option("--input", metavar="FILE|-|JSON", help="What a job would bring; otherwise {}."),
]
OtherPath = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Another path of its server: one that sleeps, say."),
]
TestTimeout = Annotated[
    float | None,
    typer.Option(
        parser=duration_s,
        metavar="TIME",
        help="How long it may take: 90, 5m at most; otherwise 30s.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_LISTS: Final = frozenset({"retryOn", "busy", "functions", "tenants"})
_SIGNS: Final = {"created": "+", "changed": "~", "removed": "-"}

app = typer.Typer()
group = typer.Typer(no_args_is_help=True)
app.add_typer(group, name="endpoints", help="Upstreams of jobs: rules, state, tests")


@command(group, "list", "dispatcher endpoints list")
def list_endpoints(service: ServiceDep) -> None:
    """List them, with their state."""
    made = cli.table(
        "STATE",
        "QUEUED",
        "RUNNING",
        "ENDPOINT",
        right=("QUEUED", "RUNNING"),
        widths={"STATE": len("‖ paused")},
    )

    def row(endpoint: Endpoint) -> None:
        name = cli.plain(endpoint.name, "bold")
        if endpoint.managed:
            name.append("  from a file", "dim")
        made.add_row(
            options.word(endpoint.state),
            _count(endpoint.queued),
            f"{_count(endpoint.running)}/{endpoint.capacity:,}",
            cli.lines(
                name.append("  ").append_text(_held(endpoint)), cli.plain(endpoint.url or "", "dim")
            ),
        )

    print_list(service, calls.endpoints, made, row, "no endpoints yet")


@command(group, "show", "dispatcher endpoints show document-gen")
def show_endpoint(service: ServiceDep, name: Name) -> None:
    """Show one, with all its rules; of headers the names alone."""
    _print(service.show(calls.get_endpoint(name)))


@command(
    group,
    "set",
    "dispatcher endpoints set document-gen url=http://127.0.0.1:9000/generate concurrency=8",
    "dispatcher endpoints set document-gen timeout=15m rate=",
)
def set_endpoint(service: ChangingDep, name: Name, fields: Fields) -> None:
    """Change its rules, or make it: then `url` is among them. What waits is run by them.

    Headers are replaced by those given.
    """
    changes = read_fields(fields)
    try:
        _print(service.show(calls.change_endpoint(name, changes, reason=service.reason)))
    except NotFound:
        url = changes.pop("url", None)
        if not isinstance(url, str):
            raise
        made = service.show(calls.make_endpoint(name, url, changes, reason=service.reason))
        _print(made)
        if made is not None:
            line = Text("  signed with       ", style="dim").append_text(cli.plain(made.secret))
            cli.console().print(line, soft_wrap=True)


@command(group, "pause", "dispatcher endpoints pause document-gen")
def pause(service: ChangingDep, name: Name) -> None:
    """Start no more of its jobs for now; more are taken, and wait."""
    _print(service.show(calls.pause_endpoint(name, reason=service.reason)))


@command(group, "resume", "dispatcher endpoints resume document-gen")
def resume(service: ChangingDep, name: Name) -> None:
    """Start its jobs again; resuming also closes its circuit."""
    _print(service.show(calls.resume_endpoint(name, reason=service.reason)))


@command(
    group,
    "purge",
    "dispatcher --tenant acme endpoints purge document-gen --yes",
    "dispatcher endpoints purge document-gen --all-tenants --no-callbacks",
)
def purge(
    service: ChangingDep,
    name: Name,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="Everybody's jobs, not the tenant's alone.")
    ] = False,
    callbacks: Annotated[
        bool, typer.Option("--callbacks/--no-callbacks", help="Whether their ends are told.")
    ] = True,
    yes: Yes = False,
) -> None:
    """Cancel all that waits there; what runs goes on."""
    whose = "of all tenants" if all_tenants else "of the tenant"
    cli.confirm(f"Cancel everything {whose} that waits for {name}?", yes=yes)
    call = calls.purge_endpoint(
        name, all_tenants=all_tenants, callbacks=callbacks, reason=service.reason
    )
    purged = service.show(call)
    if purged is not None:
        cli.console().print(f"{purged.purged:,} that waited will not start")


@command(group, "remove", "dispatcher endpoints remove document-gen --yes")
def remove(service: ChangingDep, name: Name, yes: Yes = False) -> None:
    """Take no more for it; what waits is cancelled, and told so."""
    cli.confirm(f"Remove {name} and cancel what waits for it?", yes=yes)
    service.client.remove_endpoint(name, reason=service.reason)
    if service.json:
        cli.print_json(b"{}")
    else:
        cli.console().print(f"{cli.clean(name)} is removed")


@command(
    group,
    "test",
    "dispatcher endpoints test document-gen",
    "dispatcher endpoints test document-gen --input '{\"pages\": 1}' --timeout 2m",
)
def test_endpoint(
    service: ChangingDep,
    name: Name,
    given: Input = None,  # noqa: PT028 - a command
    path: OtherPath = None,  # noqa: PT028
    timeout: TestTimeout = None,  # noqa: PT028
) -> None:
    """Call its upstream once, as a job would, and show all that is known of the call. Exits with 1
    unless a job would be completed by it."""
    call = calls.test_endpoint(
        name,
        None if given is None else payload_of(given, "--input"),
        path=path,
        timeout_s=timeout,
        reason=service.reason,
    )
    response = service.client.raw(call)
    tested = call.read(response)
    if service.json:
        cli.print_json(response.body)
    else:
        out = cli.console()
        met = tested.outcome if tested.status_code is None else str(tested.status_code)
        sign, style = ("●", "green") if tested.completed else ("✗", "red")
        line = Text(f"{sign} ", style).append_text(
            cli.plain(f"{met} in {cli.span(tested.duration_ms / 1000)}")
        )
        out.print(line)
        shown = (tested.error, tested.detail, tested.advice, tested.output_excerpt)
        for text in dict.fromkeys(filter(None, shown)):
            out.print(cli.plain(f"  {text}", "dim"))
    if not tested.completed:
        raise typer.Exit(1)


@command(
    group,
    "secret",
    "dispatcher endpoints secret document-gen",
    "dispatcher endpoints secret document-gen --rotate --overlap 7d",
)
def secret(
    service: ChangingDep,
    name: Name,
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one.")] = False,
    overlap: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the old one signs too: 90m, 24h, 7d."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="End an earlier rotation's overlap at once.")
    ] = False,
) -> None:
    """Show what signs its calls, for its upstream, which verifies them by it; that you looked is
    recorded. With `--rotate` a new one is made, and the old one signs beside it until the overlap
    ends (24 h)."""
    if not rotate and (overlap is not None or force):
        raise typer.BadParameter("--overlap and --force go with --rotate")
    call = calls.reveal_endpoint_secret(name, reason=service.reason)
    if rotate:
        overlap_s = None if overlap is None else duration_s(overlap)
        call = calls.rotate_endpoint_secret(
            name, overlap_s=overlap_s, force=force, reason=service.reason
        )
    shown = service.show(call)
    if shown is None:
        return
    cli.console().print(cli.plain(shown.secret, "bold"), soft_wrap=True)
    if rotate:
        note = "Give it to the upstream: the old one signs too, until the overlap ends."
        cli.error_console().print(note, style="dim")


@command(
    app,
    "apply",
    "dispatcher apply -f postback.toml --dry-run",
    "dispatcher apply                        [dim]# DISPATCHER_APPLY again[/dim]",
)
def apply(
    service: ChangingDep,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="With a table \\[endpoints.NAME] for each; otherwise the service reads its own "
            "(DISPATCHER_APPLY) again.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it changes.")] = False,
    yes: Yes = False,
) -> None:
    """Make the endpoints of a file, change them, and remove those that came from one and are no
    longer in it."""
    documents = None if file is None else _documents(file)
    planned = service.client.apply_endpoints(documents, dry_run=True, reason=service.reason)
    if planned.removed and not dry_run:
        names = ", ".join(map(cli.clean, planned.removed))
        cli.confirm(f"Remove {names} and cancel what waits there?", yes=yes)
    call = calls.apply_endpoints(documents, dry_run=dry_run, reason=service.reason)
    done = service.show(call)
    if done is None:
        return
    out = cli.console()
    for what, sign in _SIGNS.items():
        for name in getattr(done, what):
            out.print(cli.plain(f"{sign} {name}").append(f"  {what}", "dim"))
    if done.unchanged:
        out.print(cli.plain(f"= {len(done.unchanged):,} unchanged", "dim"))
    if not any((done.created, done.changed, done.removed, done.unchanged)):
        out.print(cli.plain("no endpoints", "dim"))
    if dry_run:
        out.print(cli.plain("nothing was changed", "dim"))


def _documents(file: Path) -> dict[str, dict[str, Any]]:
    """Return a file's endpoints as the API takes them."""
    try:
        found = read(str(file), "--file")
    except ApplyError as error:
        raise typer.BadParameter(str(error)) from None
    return {name: merged(rules, {}) for name, rules in found.items()}


def read_fields(texts: list[str]) -> dict[str, Any]:
    """Return `field=value` texts as the API takes them: names in either spelling, lists with
    commas, JSON where a value looks like it, null for none."""
    found: dict[str, Any] = {}
    for text in texts:
        written, equals, value = text.partition("=")
        name, dot, inner = written.partition(".")
        if not name or not equals or (dot and not inner):
            raise typer.BadParameter(f"{text!r} must look like field=value")
        name = camel(name)
        at = found.setdefault(name, {}) if dot else found
        key = inner if name == "headers" else camel(inner) if dot else name
        if not isinstance(at, dict) or key in at:
            raise typer.BadParameter(f"{written!r} is there twice")
        at[key] = value if name == "headers" else _value(name, value)
    return found


def _value(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in _LISTS and not text.startswith("["):
        return [_json(one.strip()) for one in text.split(",")]
    return _json(text)


def _json(text: str) -> Any:
    """Return JSON as what it says, and anything else as a text."""
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return text


def _no_json(_: str) -> None:
    raise ValueError("not JSON")


def _print(endpoint: Endpoint | None) -> None:
    if endpoint is None:
        return
    out = cli.console()
    title = cli.plain(endpoint.name, "bold").append("  ")
    out.print(title.append_text(options.word(endpoint.state)))
    measured = endpoint.measured
    facts: dict[str, Any] = {
        "queued": _count(endpoint.queued),
        "running": f"{_count(endpoint.running)} of {endpoint.capacity:,}",
        "held": _held(endpoint).plain,
        "wait": "" if measured is None else _quantiles(measured.wait, cli.span),
        "run": "" if measured is None else _quantiles(measured.run, cli.span),
        "output": "" if measured is None else _quantiles(measured.output_bytes, _size),
        **endpoint.rules,
        "headers": ", ".join(endpoint.header_names),
        "from a file": endpoint.managed or "",
    }
    for label, value in facts.items():
        if value not in ("", None):
            text = value if isinstance(value, str) else json.dumps(value)
            out.print(Text(f"  {label:<17}", style="dim").append_text(cli.plain(text)))


def _quantiles(measured: MeasureView, shown: Callable[[float], str]) -> str:
    if measured.p50 is None or measured.p95 is None:
        return ""
    return f"p50 {shown(measured.p50)}, p95 {shown(measured.p95)}, of {measured.count:,}"


def _size(count: float) -> str:
    return cli.size(round(count))


def _count(jobs: int | None) -> str:
    """Return how many jobs there are, where that is told."""
    return "-" if jobs is None else f"{jobs:,}"


def _held(endpoint: Endpoint) -> Text:
    if endpoint.held_reason is None:
        return Text()
    when = "" if endpoint.held_until is None else f", again {cli.ago(endpoint.held_until)}"
    return cli.plain(f"{endpoint.held_reason}{when}", "yellow")
