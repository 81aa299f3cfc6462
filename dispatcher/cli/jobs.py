"""`dispatcher jobs`: submit them, fetch what came of them, cancel them and run them again."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from dispatcher.cli import job_watch, options
from dispatcher.cli.job_list import FiltersDep, group, job_table
from dispatcher.cli.service import ChangingDep, Service, ServiceDep, for_each, payload_of
from dispatcher.client import (
    Job,
    JobAttempt,
    JobFilters,
    SubmittedJob,
    Sweep,
    SweepPreview,
)
from dispatcher.client.calls import job as calls
from dispatcher.client.calls.build import dumps
from dispatcher.jobs.values import JobPriority
from receiver.base import cli
from receiver.base.cli import Failed
from receiver.base.options import command, duration_s

_TIMEOUT_S: Final = 300.0
_EXCERPT_CHARS: Final = 160
_LABEL: Final = 11
_LOG_LINES: Final = 10

Id = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Jobs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what that would be.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="With filters: until all are changed.")
]
Timeout = Annotated[
    float,
    typer.Option(
        parser=duration_s,
        metavar="TIME",
        help="How long to wait: 90, 15m, 2h; otherwise 5m.",
        show_default=False,
    ),
]
To = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Otherwise standard output.")
]
Input = Annotated[
    str,
    typer.Option("--input", metavar="@FILE|-|JSON", help="What is sent there, byte for byte."),
]
InputType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Of an input (FILE or -) that is not JSON.")
]
Header = Annotated[
    list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Added to that (repeatable).")
]

app = typer.Typer()
app.add_typer(group, name="jobs", help="Jobs of endpoints: submit, find, wait, cancel, retry")


@command(
    app,
    "run",
    "dispatcher run document-gen --input @job.json --wait     [dim]# watch it to its end[/dim]",
    "dispatcher run document-gen --input '{\"pages\": 3}' --to https://example.com/hooks",
)
@command(
    group,
    "submit",
    "dispatcher jobs submit document-gen --input '{\"pages\": 3}' --wait",
    "dispatcher jobs submit document-gen --input job.json --to https://example.com/hooks",
    "dispatcher jobs submit resize --input cat.png --content-type image/png --tag team=a",
    "jq .job job.json | dispatcher jobs submit document-gen --input -",
)
def submit_job(
    service: ServiceDep,
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Where it is run.")],
    given: Input = "{}",
    content_type: InputType = None,
    to: Annotated[str | None, typer.Option(metavar="URL", help="Where its end is told, …")] = None,
    destination: Annotated[
        str | None, typer.Option(metavar="NAME", help="… or a registered destination.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME|JSON", help="How that is retried.")
    ] = None,
    header: Header = None,
    priority: Annotated[JobPriority | None, typer.Option(help="Its class.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="To find it by (repeatable).")
    ] = None,
    function: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of the endpoint's functions.")
    ] = None,
    not_before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Not run before: 90, 15m (from now), or ISO-8601."),
    ] = None,
    call_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long a call of it may take: 90, 15m.")
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long all of it, waiting included.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Otherwise each submit is a job of its own.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end.")] = False,
    timeout: Timeout = _TIMEOUT_S,
) -> None:
    """Submit a job. Once this returns it is safe on the service's disk. With --wait it exits with 1
    unless the job is completed."""
    if to is not None and destination is not None:
        raise typer.BadParameter("--to and --destination exclude each other")
    call = calls.submit_job(
        endpoint,
        _read_input(given, content_type),
        content_type="application/json" if content_type is None else content_type,
        callback_url=to,
        destination=destination,
        policy=options.policy(policy),
        callback_headers=options.headers(header),
        priority=priority,
        tags=options.pairs(tag, "--tag") or None,
        function=function,
        not_before=options.not_before(not_before),
        timeout=call_timeout,
        ttl=ttl,
        idempotency_key=options.key(idempotency_key),
    )
    if wait:
        _await_end(service, service.client.call(call).id, timeout)
    else:
        _show_submitted(service.show(call))


def _show_submitted(done: SubmittedJob | None) -> None:
    if done is not None:
        line = cli.plain(done.id).append("  ").append_text(options.word(done.status))
        again = "  (it was there already: nothing new is run)" if done.duplicate else ""
        cli.console().print(line.append(again, style="dim"))


def _read_input(given: str, content_type: str | None) -> bytes:
    """Return what is given as an input: JSON, or what a file (@FILE, FILE) or standard input (-)
    has; of another type that alone."""
    name = given.removeprefix("@")
    if content_type is None:
        return payload_of(name, "--input")
    return sys.stdin.buffer.read() if name == "-" else options.read_file(Path(name))


@command(
    group,
    "show",
    "dispatcher jobs show job_0192f0c1a2b37f6cad2e4f5a6b7c8d9e",
    "dispatcher jobs show job_0192… --json | jq .job.output",
)
def show_job(service: ServiceDep, id: Id) -> None:
    """Show one job: what came of it, every call that was made for it, and what it waits for."""
    if not service.json:
        _print_story(cli.console(), service.client.get_job(id), service.client.job_attempts(id))
        return
    # Both as they came, side by side.
    job, history = service.client.raw(calls.get_job(id)), service.client.raw(calls.job_attempts(id))
    cli.print_json(b'{"job":' + job.body + b',"history":' + history.body.strip() + b"}")


@command(
    group,
    "wait",
    "dispatcher jobs wait job_0192… && dispatcher jobs output job_0192…",
    "dispatcher jobs wait job_0192… --timeout 15m --json",
)
def wait_job(service: ServiceDep, id: Id, timeout: Timeout = _TIMEOUT_S) -> None:
    """Wait for a job's end, and show it. Exits with 1 unless it is completed."""
    _await_end(service, id, timeout)


def _await_end(service: Service, id: str, timeout_s: float) -> None:
    if service.json or not sys.stderr.isatty():
        job = service.client.wait_job(id, timeout_s)
    else:
        job = job_watch.live(service, id, timeout_s)
    if service.json:
        service.show(calls.get_job(id))
    else:
        _print_story(cli.console(), job, service.client.job_attempts(id))
    if not job.completed:
        raise typer.Exit(1)


@command(
    group,
    "watch",
    "dispatcher jobs watch job_0192…",
    "dispatcher jobs watch job_0192… --json | jq -r 'select(.what == \"output\").output'",
)
def watch_job(service: ServiceDep, id: Id, timeout: Timeout = _TIMEOUT_S) -> None:
    """Watch a job until its end: what it waits for, its progress, each chunk of an answer that
    comes in chunks. With --json one document a line. Exits with 1 unless it is completed."""
    job = job_watch.print_all(service, id, timeout)
    if not job.completed:
        raise typer.Exit(1)


@command(
    group,
    "output",
    "dispatcher jobs output job_0192… | jq .",
    "dispatcher jobs output job_0192… -o report.pdf",
)
def output(service: ServiceDep, id: Id, to: To = None) -> None:
    """Print a job's output, byte for byte, and nothing else; of one that failed, its error."""
    _write(service.client.job_output(id).body, to)


@command(group, "input", "dispatcher jobs input job_0192… | jq .")
def given_input(service: ServiceDep, id: Id, to: To = None) -> None:
    """Print what a job was submitted with, byte for byte."""
    _write(service.client.job_input(id).body, to)


def _write(body: bytes, to: Path | None) -> None:
    if to is None:
        cli.write_bytes(body)
        return
    try:
        to.write_bytes(body)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {to}: {error.strerror}") from None


@command(
    group,
    "cancel",
    "dispatcher jobs cancel job_0192… job_0193…",
    "dispatcher jobs cancel --endpoint document-gen --tag team=a --dry-run",
    "dispatcher jobs cancel --status queued --since 1h --yes",
)
def cancel(
    service: ChangingDep,
    filters: FiltersDep,
    ids: Ids = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = True,
) -> None:
    """Cancel jobs: those with these ids, or all that filters match and that wait or run. Each is
    told so by its callback."""
    if not _are_ids(ids, filters, dry_run):
        _change_all(service, "cancel", filters, dry_run=dry_run, yes=yes, wait=wait)
        return
    for_each(
        service,
        ids or (),
        lambda service, id: _print_state(service.show(calls.cancel_job(id, reason=service.reason))),
    )


@command(
    group,
    "retry",
    "dispatcher jobs retry job_0192…",
    "dispatcher jobs retry job_0192… --force     [dim]# also where it is completed[/dim]",
    "dispatcher jobs retry --status failed --end-reason attempts --since 24h --dry-run",
)
def retry(
    service: ChangingDep,
    filters: FiltersDep,
    ids: Ids = None,
    force: Annotated[
        bool, typer.Option("--force", help="With ids: also where it is completed.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = True,
) -> None:
    """Run jobs again, each under its id as its next run: those with these ids, or all that filters
    match and that failed, timed out or were cancelled."""
    if not _are_ids(ids, filters, dry_run):
        if force:
            raise typer.BadParameter("--force goes with ids")
        _change_all(service, "retry", filters, dry_run=dry_run, yes=yes, wait=wait)
        return
    for_each(
        service,
        ids or (),
        lambda service, id: _print_state(
            service.show(calls.retry_job(id, force=force, reason=service.reason))
        ),
    )


def _are_ids(ids: list[str] | None, filters: JobFilters, dry_run: bool) -> bool:
    """Whether jobs are given by their ids, and not by filters."""
    if ids and (filters or dry_run):
        raise typer.BadParameter("give ids, or filters with --dry-run, not both")
    if not ids and not filters:
        raise typer.BadParameter("give ids, or at least one filter such as --endpoint NAME")
    return bool(ids)


def _print_state(job: Job | None) -> None:
    if job is not None:
        line = cli.plain(job.id).append("  ").append_text(options.word(job.status))
        cli.console().print(line.append(f"  run {job.run}" if job.run > 1 else "", style="dim"))


# --- all that filters match ---


def _change_all(
    service: Service,
    change: Literal["cancel", "retry"],
    filters: JobFilters,
    *,
    dry_run: bool,
    yes: bool,
    wait: bool,
) -> None:
    if dry_run:
        _preview(service, change, filters)
        return
    if not yes:
        if service.json or not sys.stdin.isatty():
            message = "no terminal to confirm on: add --yes (or look with --dry-run)"
            raise typer.BadParameter(message)
        count = _preview(service, change, filters)
        if not count:
            return
        cli.confirm(f"{change.capitalize()} {count}?", yes=False)
    if change == "cancel":
        call = calls.cancel_jobs(filters, reason=service.reason)
    else:
        call = calls.retry_jobs(filters, reason=service.reason)
    started = service.client.call(call) if wait else service.show(call)
    if started is None:
        return
    if wait:
        started = _watch(service, started)
    if service.json:
        service.show(calls.get_sweep(started.id))
        return
    line = cli.plain(f"{started.id}  {started.state}: {started.done:,} of {_matched(started)}")
    if started.skipped:
        line.append(f", {started.skipped:,} had gone on by themselves", style="dim")
    cli.console().print(line)


def _preview(service: Service, change: Literal["cancel", "retry"], filters: JobFilters) -> str:
    """Show what matches and return how many that are, in words; "" for none."""
    found = service.show(calls.preview_jobs(change, filters))
    if found is None:
        return ""
    out = cli.console()
    shown = " ".join(f"{name}={value}" for name, value in found.filter.items())
    out.print(cli.plain(f"{_matched(found)} match {shown}", "bold"))
    if found.sample:
        out.print()
        out.print(job_table(found.sample))
    return _matched(found) if found.matched or not found.matched_exactly else ""


def _matched(found: Sweep | SweepPreview) -> str:
    return f"{'' if found.matched_exactly else 'at least '}{found.matched:,}"


def _watch(service: Service, sweep: Sweep) -> Sweep:
    """Show a bar until all of it is changed. Ctrl-C leaves it running."""
    bar = Progress(
        TextColumn(sweep.what),
        BarColumn(),
        MofNCompleteColumn(),
        console=cli.error_console(),
        transient=True,
        disable=service.json or not sys.stderr.isatty(),
    )
    try:
        with bar:
            task = bar.add_task("", total=None)
            for sweep in service.client.watch_sweep(sweep.id):  # noqa: B020 - the newest
                total = sweep.matched if sweep.matched_exactly else None
                bar.update(task, total=total, completed=sweep.done + sweep.skipped)
    except KeyboardInterrupt:
        raise Failed(f"{sweep.id} goes on without you") from None
    return sweep


# --- what is shown of one ---


def _print_story(out: Console, job: Job, history: Sequence[JobAttempt]) -> None:
    """Print the whole story of a job."""
    title = cli.plain(job.id, "bold").append("  ").append_text(options.word(job.status))
    out.print(title.append(f"  {job.reason}" if job.reason else "", style="dim"))
    out.print()
    for label, text in _facts(job):
        out.print(Text().append(f"  {label:<{_LABEL}}", "dim").append_text(cli.plain(text)))
    if history:
        out.print()
    for attempt in history:
        out.print(_call(attempt), no_wrap=True, overflow="ellipsis")
    for line in (job.log or "").splitlines()[-_LOG_LINES:]:
        out.print(cli.plain(f"      {line}", "dim"), no_wrap=True, overflow="ellipsis")
    if job.final and job.ended_at is not None:
        out.print(_end(job, job.ended_at))
    for hint in _ending(job):
        out.print(hint)


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    yield "endpoint", job.endpoint
    yield "accepted", f"{cli.stamp(job.created_at)}  {cli.ago(job.created_at)}"
    if job.started_at is not None and job.run == 1:
        yield "waited", cli.span(max(0.0, (job.started_at - job.created_at).total_seconds()))
    if job.run > 1:
        yield "run", str(job.run)
    if job.priority != "normal":
        yield "priority", job.priority
    if job.tags:
        yield "tags", " ".join(f"{name}={value}" for name, value in job.tags.items())
    if job.progress is not None or job.current_step:
        percent = "" if job.progress is None else f"{job.progress:g} %  "
        yield "progress", f"{percent}{cli.short(job.current_step or '', 60)}".rstrip()
    if job.cost is not None:
        yield "cost", f"{job.cost:g}"
    if job.callback is not None:
        yield "callback", f"{job.callback.id}  {job.callback.status}"


def _call(attempt: JobAttempt) -> Text:
    code = attempt.status_code
    met = attempt.outcome if code is None else f"{attempt.outcome} {code}"
    good = code is not None and 200 <= code < 300
    line = Text().append(f"  {cli.stamp(attempt.started_at)}  ", "dim")
    line.append("● " if good else "✗ ", style="green" if good else "red")
    line.append_text(
        cli.plain(f"call {attempt.n}  {met} in {cli.span(attempt.duration_ms / 1000)}")
    )
    return line.append_text(cli.plain(f"  {attempt.error}" if attempt.error else "", "dim"))


def _end(job: Job, at: datetime) -> Text:
    """Return how it ended, and how that was told."""
    line = Text().append(f"  {cli.stamp(at)}  ", "dim").append_text(options.word(job.status))
    if job.started_at is not None:
        line.append(f" after {cli.span(max(0.0, (at - job.started_at).total_seconds()))}")
    if job.callback is not None:
        line.append("; its callback is ").append_text(options.word(job.callback.status))
    return line


def _ending(job: Job) -> Iterator[Text]:
    """Yield what it waits for, or what came of it."""
    yield Text()
    if job.status == "queued":
        yield cli.plain(f"  waits: {'; '.join(_waits(job))}", "yellow")
    elif job.status == "running":
        end = job.estimated_completion
        when = "" if end is None else f", ends {cli.ago(end)}"
        yield cli.plain(f"  a call runs now{when}", "cyan")
    elif job.error is not None:
        yield cli.plain(f"  {cli.short(job.error, _EXCERPT_CHARS)}", "red")
    elif job.output_ref is not None:
        size = cli.size(job.output_ref.size)
        yield cli.plain(f"  {size} of {job.output_ref.content_type}:")
        yield cli.plain(f"  dispatcher jobs output {job.id}")
    elif job.completed:
        shown = job.output if isinstance(job.output, str) else dumps(job.output).decode()
        yield cli.plain(f"  {cli.short(shown, _EXCERPT_CHARS)}")
    if job.status in ("failed", "timeout", "cancelled"):
        line = Text().append("  To run it again: ", "dim")
        yield line.append_text(cli.plain(f"dispatcher jobs retry {job.id}"))


def _waits(job: Job) -> Iterator[str]:
    """Yield why it waits, where in its queue, and until when, as far as that is known."""
    why = job.held_reason or job.waiting_for
    if why:
        yield job_watch.wait_words(why)
    if job.position is not None:
        yield f"{'' if job.position_exactly else 'about '}number {job.position:,} in its queue"
    if job.estimated_start is not None:
        yield f"starts {cli.ago(job.estimated_start)}"
    elif not why and job.position is None:
        yield "its turn"
