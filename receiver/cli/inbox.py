"""Asking a running receiver about the messages that came: `receiver inbox`."""

from typing import Annotated, Any, Final, Literal, TypeAlias

import typer
from rich.table import Table
from rich.text import Text

from receiver.base.cli import (
    FAILED,
    USAGE,
    ago,
    console,
    error_console,
    lines,
    plain,
    table,
)
from receiver.base.options import command, duration_s, moment
from receiver.cli.common import Service, ServiceDep, end, word
from receiver.client import is_time
from receiver.inbox.message import STATES, State

app = typer.Typer(help="What a running receiver has in its inbox.", no_args_is_help=True)

Status: TypeAlias = Literal[
    "queued", "running", "completed", "failed", "cancelled", "timeout", "unknown"
]
# What is shown of an answer, and so must be in it.
_MESSAGE: Final[dict[str, Any]] = {
    "id": int,
    "status": str,
    "state": str,
    "attempts": int,
    "jobId": (str, None),
    "jobStatus": (str, None),
    "receivedAt": is_time,
    "duplicates": int,
}
_SEALED: Final = ("messages", "failures", "expectations")
_COUNTS: Final[dict[str, Any]] = {"plain": int, "sealed": int, "old": int, "unreadable": int}
_STATS: Final[dict[str, Any]] = {
    "messages": dict.fromkeys(STATES, int),
    "encryption": {
        "key": (str, None),
        "sealing": bool,
        "missingKeys": list,
        **dict.fromkeys(_SEALED, _COUNTS),
    },
}
_SLICE: Final[dict[str, Any]] = {"sealed": int, "unreadable": int, "next": (str, None)}


@command(
    app,
    "list",
    "receiver inbox list --state dead",
    "receiver inbox list --status conflict",
    "receiver inbox list --job-id job_1234567890abcdef --json",
)
def list_command(
    service: ServiceDep,
    status: Annotated[
        Literal["accepted", "conflict", "late"] | None, typer.Option(help="What was answered.")
    ] = None,
    state: Annotated[State | None, typer.Option(help="State of its handling.")] = None,
    job_id: Annotated[str | None, typer.Option(help="Only this job's messages.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on from a page's nextCursor.")] = None,
) -> None:
    """List messages, newest first."""
    query = {
        "status": status,
        "state": state,
        "jobId": job_id,
        "limit": str(limit),
        "cursor": cursor,
    }
    given = {name: value for name, value in query.items() if value is not None}
    page = service.ask("/inbox", given, shape={"data": [_MESSAGE], "nextCursor": (str, None)})
    if service.json:
        service.print_document(page)
        return
    if not page["data"]:
        print("no messages")
        return
    console().print(_messages(page["data"]))
    if page["nextCursor"]:
        more = f"more: receiver inbox list --cursor {page['nextCursor']}"
        error_console().print(plain(more, "dim"))


@command(app, "show", "receiver inbox show 42")
def show_command(
    service: ServiceDep,
    id: Annotated[int, typer.Argument(help="The message's id, as listed.", min=1)],
) -> None:
    """Show one message with its body."""
    message = service.ask(f"/inbox/{id}", shape=_MESSAGE | {"id": id, "lastError": (str, None)})
    if service.json:
        service.print_document(message)
        return
    out = console()
    fields = {k: v for k, v in message.items() if v is not None and k not in ("body", "lastError")}
    width = max(len(name) for name in fields)
    for name, value in fields.items():
        text = word(value) if name in ("status", "state") else plain(value)
        out.print(Text(f"{name:{width}}  ", "dim").append_text(text), soft_wrap=True)
    if message["lastError"]:
        out.print(
            "", plain(message["lastError"].rstrip(), "red", keep="\n"), sep="\n", soft_wrap=True
        )
    if "body" in message:
        out.print("", plain(message["body"].rstrip(), keep="\n"), sep="\n", soft_wrap=True)


def _messages(messages: list[dict[str, Any]]) -> Table:
    made = table("ID", "STATE", "JOB", fold="JOB")
    for message in messages:
        job = plain(message["jobId"] or "-", "bold")
        made.add_row(
            str(message["id"]),
            _state(message),
            lines(job.append_text(plain(f"  {_stated(message)}", "not bold")), _about(message)),
        )
    return made


def _about(message: dict[str, Any]) -> Text:
    """Return the verdict, when and how often it came, and how often it was tried."""
    parts = [word(message["status"]), plain(ago(message["receivedAt"]), "dim")]
    for count, what in ((message["attempts"], "tries"), (1 + message["duplicates"], "copies")):
        if count > 1:
            parts.append(plain(f"{count} {what}", "dim"))
    return Text(" · ").join(parts)


def _state(message: dict[str, Any]) -> Text:
    """Return the state of its handling; of one that is to be handled and cannot be read, that."""
    if message["state"] == "pending" and "unreadable" in message:
        return plain("unreadable", "bold red")
    return word(message["state"])


def _stated(message: dict[str, Any]) -> str:
    """Return a job's status as sent, and its run where that is not the first."""
    run = message.get("run", 1)
    return (message["jobStatus"] or "-") + (f" (run {run})" if run != 1 else "")


@command(
    app,
    "replay",
    "receiver inbox replay 42",
    "receiver inbox replay --dead --since 2h --dry-run",
    "receiver inbox replay --ignored --source /webhooks --job-status failed",
)
def replay_command(
    service: ServiceDep,
    id: Annotated[int | None, typer.Argument(help="The message's id, as listed.", min=1)] = None,
    all_dead: Annotated[bool, typer.Option("--dead", help="All that are dead.")] = False,
    all_ignored: Annotated[
        bool, typer.Option("--ignored", help="All that were ignored: nobody handled them then.")
    ] = False,
    source: Annotated[
        str | None, typer.Option(help="Of those, only what came in by this path.")
    ] = None,
    job_status: Annotated[
        Status | None, typer.Option(help="Of those, only this status, however it was spelt.")
    ] = None,
    job_id: Annotated[str | None, typer.Option(help="Of those, only this job's.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            parser=moment,
            help="Of those, only what came then or later: 30m, 2h (ago), or ISO-8601.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", parser=moment, help="Of those, only what came before."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be replayed.")
    ] = False,
) -> None:
    """Hand a message to its handler again: a dead one, or one that was ignored or skipped."""
    if (id is not None) + all_dead + all_ignored != 1:
        end("give one message's id, or --dead, or --ignored", USAGE)
    given = {
        "source": source,
        "jobStatus": job_status,
        "jobId": job_id,
        "since": since,
        "until": until,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if id is not None:
        if chosen or dry_run:
            end("--source, --job-status and so on go with --dead or --ignored", USAGE)
        response = service.ask(
            f"/inbox/{id}/replay", post=True, shape={"id": id, "state": "pending"}
        )
        _print(service, response, f"message {id} is pending")
        return
    query = {"state": "dead" if all_dead else "ignored", **chosen}
    if dry_run:
        _preview(service, query)
        return
    response = service.ask("/inbox/replay", query, post=True, shape={"replayed": int})
    _print(service, response, f"replayed: {response['replayed']}")


def _preview(service: Service, query: dict[str, str]) -> None:
    shape = {"matched": int, "sample": [_MESSAGE]}
    found = service.ask("/inbox/replay", query | {"dryRun": "true"}, post=True, shape=shape)
    if service.json:
        service.print_document(found)
        return
    out, matched = console(), found["matched"]
    out.print(f"{matched:,} would be replayed")
    if matched:
        out.print("", _messages(found["sample"]))
        left = matched - len(found["sample"])
        if left:
            out.print(f"… and {left:,} more", style="dim")


def _print(service: Service, response: dict[str, Any], text: str) -> None:
    if service.json:
        service.print_document(response)
    else:
        print(text)


@command(
    app,
    "prune",
    "receiver inbox prune",
    "receiver inbox prune --older-than 120d",
)
def prune_command(
    service: ServiceDep,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=duration_s,
            help="Instead of RECEIVER_KEEP_BODIES and _KEEP_MESSAGES: 12h, 120d.",
        ),
    ] = None,
    older_than_days: Annotated[
        float | None, typer.Option(help="The same, in days.", min=0, max=3650)
    ] = None,
) -> None:
    """Delete old messages that are handled. What waits or is dead stays, whatever its age.

    Pruned messages are forgotten: a copy that comes in later is new."""
    if older_than is not None and older_than_days is not None:
        end("--older-than and --older-than-days exclude each other", USAGE)
    age_s = older_than if older_than_days is None else older_than_days * 86_400
    query = None if age_s is None else {"olderThan": str(round(age_s))}
    response = service.ask("/inbox/prune", query, post=True, shape={"bodies": int, "messages": int})
    text = f"pruned: {response['bodies']} bodies, {response['messages']} messages"
    _print(service, response, text)


@command(app, "stats", "receiver inbox stats")
def stats_command(service: ServiceDep) -> None:
    """Count the messages by state, and what is stored plain, sealed or unreadable."""
    stats = service.ask("/inbox/stats", shape=_STATS)
    if service.json:
        service.print_document(stats)
        return
    out, encryption = console(), stats["encryption"]
    states = table(*(state.upper() for state in STATES))
    states.add_row(*(str(stats["messages"][state]) for state in STATES))
    out.print(states, "")
    counts = table("STORED", "PLAIN", "SEALED", "WITH AN OLDER KEY", "UNREADABLE")
    for name in _SEALED:
        one = encryption[name]
        counts.add_row(name, *(str(one[how]) for how in ("plain", "sealed", "old", "unreadable")))
    out.print(counts)
    print(f"key: {encryption['key'] or 'none: RECEIVER_ENCRYPTION_KEYS is not set'}")
    if encryption["key"] and not encryption["sealing"]:
        print("not sealing yet: processes without RECEIVER_ENCRYPTION_KEYS use the inbox")
    if encryption["missingKeys"]:
        print(f"missing keys: {', '.join(map(str, encryption['missingKeys']))}")
    elif encryption["key"] and any(encryption[name]["plain"] for name in _SEALED):
        print("seal what is plain: receiver inbox reencrypt")


@command(app, "reencrypt", "receiver inbox reencrypt")
def reencrypt_command(
    service: ServiceDep,
    scrub: Annotated[
        bool,
        typer.Option(help="Write a SQLite file anew afterwards; messages wait meanwhile."),
    ] = True,
) -> None:
    """Seal what is stored plain, or with an older key than the first of RECEIVER_ENCRYPTION_KEYS.

    The service goes on meanwhile. It can be ended and begun again: what is done stays done. A
    SQLite file is written anew at the end, so that nothing of what was plain stays in it: that
    takes as much room again, and seconds a gigabyte. What no key opens stays as it is (exit 1)."""
    sealed = unreadable = 0
    after: str | None = ""
    while after is not None:
        query = {"after": after} if after else None
        response = service.ask("/inbox/reencrypt", query, post=True, shape=_SLICE)
        sealed, unreadable = sealed + response["sealed"], unreadable + response["unreadable"]
        after = response["next"]
    while scrub and not service.ask("/inbox/scrub", post=True, shape={"done": bool})["done"]:
        pass
    if service.json:
        service.print_document({"sealed": sealed, "unreadable": unreadable, "scrubbed": scrub})
    else:
        print(f"sealed: {sealed}, unreadable: {unreadable}")
    if unreadable:
        raise typer.Exit(FAILED)
