"""`dispatcher show`, `dispatcher stats`: the story of one callback, and the figures of all."""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from textwrap import wrap
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dispatcher.cli import options
from dispatcher.cli.service import Service, ServiceDep
from dispatcher.client import Attempt, Callback, Stats
from dispatcher.client.calls import tenant as calls
from dispatcher.client.calls.callback import attempts, get
from dispatcher.client.transport import Call
from receiver.base import cli
from receiver.base.options import command

_EXCERPT_CHARS: Final = 160
_EXCERPT_WIDTH_MIN: Final = 20
_ASIDE: Final = 28  # what stands before it in a line
_LABEL: Final = 12
_REFUSING: Final = (401, 403)
_STATS_EVERY_S: Final = 1.0


app = typer.Typer()


@command(
    app,
    "show",
    "dispatcher show cb_0192f0c1a2b33f6c1d2e4f5a6b7c8d9e0f1a",
    "dispatcher show cb_0192… --payload | jq .",
    "dispatcher show cb_0192… --json",
)
def show_callback(
    service: ServiceDep,
    id: Annotated[str, typer.Argument(metavar="ID", help="The callback's id.")],
    only_payload: Annotated[
        bool, typer.Option("--payload", help="Print the payload's bytes and nothing else.")
    ] = False,
) -> None:
    """Show one callback: what came in, every attempt, and what comes next."""
    if only_payload:
        cli.write_bytes(service.client.payload(id).body)
        return
    if not service.json:
        print_story(cli.console(), service.client.get(id), service.client.attempts(id))
        return
    # Both as they came, side by side.
    callback, history = _as_came(service, get(id)), _as_came(service, attempts(id))
    cli.print_json(b'{"callback":' + callback + b',"history":' + history.strip() + b"}")


def _as_came(service: Service, call: Call[Any]) -> bytes:
    """Return the JSON of an answer, once it has been read."""
    response = service.client.raw(call)
    call.read(response)
    return response.body


def await_end(service: Service, id: str, timeout_s: float) -> None:
    """Wait until a callback's delivery ends, then show it. Exits with 1 unless it was delivered."""
    with cli.error_console().status("waiting for its delivery …"):
        callback = service.client.wait(id, timeout_s)
    if service.json:
        service.show(get(id))
    else:
        print_story(cli.console(), service.client.get(id), service.client.attempts(id))
    if callback.status != "delivered":
        raise typer.Exit(1)


def print_story(out: Console, callback: Callback, history: Sequence[Attempt]) -> None:
    """Print the whole story."""
    title = cli.plain(callback.id, "bold").append("  ").append_text(options.word(callback.status))
    out.print(title)
    out.print()
    for label, text in _facts(callback):
        out.print(Text().append(f"  {label:<{_LABEL}}", "dim").append_text(text))
    out.print()
    for line in _timeline(callback, history):
        out.print(line, no_wrap=True, overflow="ellipsis")
    for hint in _next(callback):
        out.print(hint)


def _facts(callback: Callback) -> Iterator[tuple[str, Text]]:
    job = cli.plain(callback.job_id)
    if callback.job_status is not None:
        job.append_text(cli.plain(f" ({callback.job_status})", "dim"))
    if callback.run is not None:
        job.append_text(cli.plain(f" run {callback.run}", "dim"))
    yield "job", job
    yield "to", cli.plain(callback.callback_url)
    named = callback.destination_name
    yield "destination", cli.plain(callback.destination if named is None else named)
    if callback.tags:
        yield "tags", cli.plain(" ".join(f"{k}={v}" for k, v in callback.tags.items()))
    if callback.priority != "normal":
        yield "priority", cli.plain(callback.priority)
    if callback.payload_size is not None:
        gone = "  (pruned: its retention has ended)" if callback.payload_pruned else ""
        digest = f"  sha256 {(callback.payload_sha256 or '')[:16]}…"
        yield (
            "payload",
            cli.plain(cli.size(callback.payload_size)).append(digest + gone, style="dim"),
        )
    if callback.policy is not None:
        yield "policy", cli.plain(_policy(callback.policy))


def _policy(policy: dict[str, Any]) -> str:
    delays, grown = policy.get("delays"), policy.get("exponential")
    waits = ""
    if delays:
        shown = ", ".join(cli.span(wait) for wait in delays[:4])
        waits = f" after {shown}{', …' if len(delays) > 4 else ''}"
    elif grown:
        waits = (
            f" after {cli.span(grown['base'])} growing ×{grown['factor']:g} "
            f"up to {cli.span(grown['cap'])}"
        )
    until = f", timeout {cli.span(policy['timeout'])}" if "timeout" in policy else ""
    return f"{policy.get('attempts', '?')} tries{waits}{until}"


def _timeline(callback: Callback, history: Sequence[Attempt]) -> Iterator[Text]:
    made = cli.ago(callback.created_at)
    yield _moment(callback.created_at, "○", "accepted", "", made)
    before = callback.created_at
    for attempt in history:
        gap = (attempt.started_at - before).total_seconds()
        if gap >= 1:
            yield _aside(f"waited {cli.span(gap)}")
        yield from _attempt(attempt)
        before = attempt.started_at + timedelta(milliseconds=attempt.duration_ms)
    yield from _ending(callback)


def _attempt(attempt: Attempt) -> Iterator[Text]:
    good = attempt.acknowledged
    what = f"attempt {attempt.n}"
    took = f"in {cli.span(attempt.duration_ms / 1000)}"
    yield _moment(
        attempt.started_at,
        "●" if good else "✗",
        what,
        "green" if good else "red",
        f"{met(attempt)} {took}",
    )
    room = max(_EXCERPT_WIDTH_MIN, cli.console().width - _ASIDE)
    for text in why(attempt):
        yield from map(_aside, wrap(cli.short(cli.clean(text), _EXCERPT_CHARS), room))


def why(attempt: Attempt) -> Iterator[str]:
    """Yield what is told of an attempt: to operators the true reason."""
    told = attempt.error if attempt.detail is None else f"{attempt.cause}: {attempt.detail}"
    for text in (told, attempt.response_excerpt):
        if text and text != attempt.outcome:
            yield text
    if attempt.cause == "blocked":
        yield "open it with DISPATCHER_ALLOW_NETWORKS, if deliveries may go there"
    elif attempt.status_code in _REFUSING:
        yield "the receiver does not accept it: has it the secret of this destination?"


def met(attempt: Attempt) -> str:
    """Return what an attempt met: `rejected 503`, `timeout`."""
    code = attempt.status_code
    return attempt.outcome if code is None else f"{attempt.outcome} {code}"


def _ending(callback: Callback) -> Iterator[Text]:
    if callback.status == "sending":
        yield _hint("◐ an attempt is running now", "cyan")
    elif callback.status == "pending":
        until = callback.waits_for.until if callback.waits_for else callback.next_attempt_at
        when = "" if until is None else f"  {cli.stamp(until)}"
        yield _hint(f"○ waits: {options.waits(callback) or 'for nothing'}{when}", "yellow")
    elif callback.status == "delivered" and callback.delivered_at is not None:
        took = (callback.delivered_at - callback.created_at).total_seconds()
        yield _hint(f"● delivered, {cli.span(took)} after it was accepted", "green")
    elif callback.status == "dead":
        why = f": {callback.last_error}" if callback.last_error else ""
        yield _hint(f"✗ dead{why}", "bold red")
    elif callback.status == "cancelled":
        yield _hint("– cancelled", "dim")


def _moment(when: Any, mark: str, what: str, style: str, more: str) -> Text:
    line = Text().append(f"  {cli.stamp(when)}  ", "dim")
    line.append(f"{mark} {what:<{_LABEL}}", style=style)
    return line.append_text(cli.plain(f"  {more}", "dim" if not style else ""))


def _aside(text: str) -> Text:
    return Text(" " * 25).append("│ ", style="dim").append_text(cli.plain(text, "dim"))


def _hint(text: str, style: str) -> Text:
    return Text(" " * 24).append_text(cli.plain(text, style))


def _next(callback: Callback) -> Iterator[Text]:
    """Yield what to type next."""
    if callback.status not in ("dead", "cancelled"):
        return
    yield Text()
    if callback.payload_pruned:
        yield Text("  Its payload is pruned: it cannot be replayed.", style="dim")
        return
    when = "Once that is fixed" if callback.status == "dead" else "To send it after all"
    line = Text().append(f"  {when}: ", "dim")
    yield line.append_text(cli.plain(f"dispatcher replay {callback.id}"))


@command(
    app, "stats", "dispatcher stats", "dispatcher stats --watch", "dispatcher stats --all --json"
)
def stats(
    service: ServiceDep,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Again every second, until Ctrl-C.")
    ] = False,
    all_tenants: Annotated[
        bool, typer.Option("--all", help="Of all tenants together (platform keys).")
    ] = False,
) -> None:
    """Show a tenant's counts and rates: callbacks and jobs by state, the oldest waiting one."""
    if watch:
        _watch_stats(service, all_tenants)
        return
    found = service.show(calls.stats(all_tenants=all_tenants))
    if found is not None:
        cli.console().print(_stats_table(found))


def _watch_stats(service: Service, all_tenants: bool) -> None:
    try:
        if service.json:
            while service.show(calls.stats(all_tenants=all_tenants)) is None:
                time.sleep(_STATS_EVERY_S)
        with Live(console=cli.console(), auto_refresh=False) as live:
            while True:
                live.update(
                    _stats_table(service.client.stats(all_tenants=all_tenants)), refresh=True
                )
                time.sleep(_STATS_EVERY_S)
    except KeyboardInterrupt:
        return


def _stats_table(found: Stats) -> Table:
    made = cli.table("CALLBACKS", "", "PER SECOND, LAST MINUTE", "", right=("",))
    rates = (
        ("accepted", found.accepted_per_second),
        ("delivered", found.delivered_per_second),
        ("failed attempts", found.failed_attempts_per_second),
    )
    oldest = found.oldest_pending_at
    waiting = (("oldest waiting", "none" if oldest is None else cli.ago(oldest)),)
    right = [(name, f"{rate:,.1f}") for name, rate in rates] + [("", ""), *waiting]
    left = [(options.word(state), f"{count:,}") for state, count in found.counts.items()]
    if any(found.jobs.values()):
        left.append((Text(), ""))
        left += [(Text(f"{state} jobs"), f"{n:,}") for state, n in found.jobs.items() if n]
    for at in range(max(len(left), len(right))):
        state, count = left[at] if at < len(left) else (Text(), "")
        name, figure = right[at] if at < len(right) else ("", "")
        made.add_row(state, count, name, figure)
    return made
