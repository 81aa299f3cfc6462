"""Asking a running receiver: `receiver inbox`, about the messages that came; `receiver expect` and
`receiver expected`, about the jobs that must not be missed."""

import json
import math
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer
from rich.table import Table
from rich.text import Text

from receiver.base.cli import FAILED, USAGE, ago, command, console, plain, table
from receiver.cli.common import EXIT_CODES, AsJson, ask, end, word
from receiver.client import is_time
from receiver.inbox.expectations import Expected
from receiver.inbox.message import STATES, State
from receiver.verification.identity import Dialect

app = typer.Typer(
    help="What a running receiver has in its inbox.", epilog=EXIT_CODES, no_args_is_help=True
)
expect_app = typer.Typer()

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
_JOB: Final[dict[str, Any]] = {
    "jobId": str,
    "state": str,
    "asked": int,
    "nextAskAt": (is_time, None),
    "lastError": (str, None),
}


@command(
    app,
    "list",
    "receiver inbox list --state dead",
    "receiver inbox list --status conflict",
    "receiver inbox list --job-id job_1234567890abcdef --json",
    note=EXIT_CODES,
)
def list_command(
    status: Annotated[
        Literal["accepted", "conflict", "late"] | None, typer.Option(help="What was answered.")
    ] = None,
    state: Annotated[State | None, typer.Option(help="State of its handling.")] = None,
    job_id: Annotated[str | None, typer.Option(help="Only this job's messages.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on from a page's nextCursor.")] = None,
    as_json: AsJson = False,
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
    page = ask("/inbox", given, shape={"data": [_MESSAGE], "nextCursor": (str, None)})
    if as_json:
        print(json.dumps(page))
        return
    if not page["data"]:
        print("no messages")
        return
    console().print(_messages(page["data"]))
    if page["nextCursor"]:
        print(f"more: receiver inbox list --cursor {page['nextCursor']}")


@command(app, "show", "receiver inbox show 42", note=EXIT_CODES)
def show_command(
    id: Annotated[int, typer.Argument(help="The message's id, as listed.", min=1)],
    as_json: AsJson = False,
) -> None:
    """Show one message with its body."""
    message = ask(f"/inbox/{id}", shape=_MESSAGE | {"id": id, "lastError": (str, None)})
    if as_json:
        print(json.dumps(message))
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
    columns = ("id", "status", "state", "tries", "job", "job status", "received", "copies")
    made = table(*columns, fold="job")
    for message in messages:
        made.add_row(
            str(message["id"]),
            word(message["status"]),
            _state(message),
            str(message["attempts"]),
            plain(message["jobId"] or "-"),
            plain(_stated(message)),
            ago(message["receivedAt"]),
            str(1 + message["duplicates"]),
        )
    return made


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
    "receiver inbox replay --dead",
    "receiver inbox replay --ignored --source /webhooks --job-status failed",
    note=EXIT_CODES,
)
def replay_command(
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
    as_json: AsJson = False,
) -> None:
    """Hand a message to its handler again: a dead one, or one that was ignored or skipped."""
    if (id is not None) + all_dead + all_ignored != 1:
        end("give one message's id, or --dead, or --ignored", USAGE)
    if id is not None:
        if source is not None or job_status is not None:
            end("--source and --job-status go with --dead or --ignored", USAGE)
        response = ask(f"/inbox/{id}/replay", post=True, shape={"id": id, "state": "pending"})
        text = f"message {id} is pending"
    else:
        query = {
            "state": "dead" if all_dead else "ignored",
            **({} if source is None else {"source": source}),
            **({} if job_status is None else {"jobStatus": job_status}),
        }
        response = ask("/inbox/replay", query, post=True, shape={"replayed": int})
        text = f"replayed: {response['replayed']}"
    print(json.dumps(response) if as_json else text)


@command(
    app,
    "prune",
    "receiver inbox prune",
    "receiver inbox prune --older-than-days 120",
    note=EXIT_CODES,
)
def prune_command(
    older_than_days: Annotated[
        float | None,
        typer.Option(help="Instead of RECEIVER_KEEP_BODIES and _KEEP_MESSAGES.", min=0, max=3650),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete old messages that are handled. What waits or is dead stays, whatever its age.

    Pruned messages are forgotten: a copy that comes in later is new."""
    query = None
    if older_than_days is not None:
        query = {"olderThan": str(round(older_than_days * 86_400))}
    response = ask("/inbox/prune", query, post=True, shape={"bodies": int, "messages": int})
    text = f"pruned: {response['bodies']} bodies, {response['messages']} messages"
    print(json.dumps(response) if as_json else text)


@command(app, "stats", "receiver inbox stats", note=EXIT_CODES)
def stats_command(as_json: AsJson = False) -> None:
    """Count the messages by state, and what is stored plain, sealed or unreadable."""
    stats = ask("/inbox/stats", shape=_STATS)
    if as_json:
        print(json.dumps(stats))
        return
    out, encryption = console(), stats["encryption"]
    states = table(*STATES)
    states.add_row(*(str(stats["messages"][state]) for state in STATES))
    out.print(states, "")
    counts = table("stored", "plain", "sealed", "with an older key", "unreadable")
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


@command(app, "reencrypt", "receiver inbox reencrypt", note=EXIT_CODES)
def reencrypt_command(
    scrub: Annotated[
        bool,
        typer.Option(help="Write a SQLite file anew afterwards; messages wait meanwhile."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Seal what is stored plain, or with an older key than the first of RECEIVER_ENCRYPTION_KEYS.

    The service goes on meanwhile. It can be ended and begun again: what is done stays done. A
    SQLite file is written anew at the end, so that nothing of what was plain stays in it: that
    takes as much room again, and seconds a gigabyte. What no key opens stays as it is (exit 1)."""
    sealed = unreadable = 0
    after: str | None = ""
    while after is not None:
        query = {"after": after} if after else None
        response = ask("/inbox/reencrypt", query, post=True, shape=_SLICE)
        sealed, unreadable = sealed + response["sealed"], unreadable + response["unreadable"]
        after = response["next"]
    while scrub and not ask("/inbox/scrub", post=True, shape={"done": bool})["done"]:
        pass
    if as_json:
        print(json.dumps({"sealed": sealed, "unreadable": unreadable, "scrubbed": scrub}))
    else:
        print(f"sealed: {sealed}, unreadable: {unreadable}")
    if unreadable:
        raise typer.Exit(FAILED)


@command(
    expect_app,
    "expect",
    "receiver expect job_1 --by 900 --status-url https://api.example.com/v2/jobs/job_1/status",
    note=EXIT_CODES,
)
def expect_command(
    job_id: Annotated[str, typer.Argument(help="The job's id, as its platform gave it.")],
    status_url: Annotated[str, typer.Option(help="Where its status can be asked for.")],
    by: Annotated[
        str, typer.Option(help="When to ask if it stays silent: ISO-8601, or seconds from now.")
    ],
    credentials: Annotated[
        str | None, typer.Option(help="Name of the credentials to ask with.")
    ] = None,
    platform: Annotated[Dialect, typer.Option(help="Whose answer it is.")] = "auto",
    source: Annotated[
        str | None, typer.Option(help="Path its callbacks come in by; the first if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have a running receiver wait for a job, and ask for it if no callback comes."""
    document = {
        "jobId": job_id,
        "statusUrl": status_url,
        "by": _by(by),
        "credentials": credentials,
        "platform": platform,
        "source": source,
    }
    document = {name: value for name, value in document.items() if value is not None}
    shape = _JOB | {"jobId": job_id}
    response = ask("/expected", post=True, document=document, shape=shape)
    print(json.dumps(response) if as_json else f"{response['jobId']} is {response['state']}")


@command(expect_app, "expected", "receiver expected --state lost", note=EXIT_CODES)
def expected_command(
    state: Annotated[Expected | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the jobs that are or were waited for, newest first."""
    query = {"limit": str(limit), **({"state": state} if state else {})}
    response = ask("/expected", query, shape={"data": [_JOB]})
    if as_json:
        print(json.dumps(response))
    elif response["data"]:
        console().print(_jobs(response["data"]))
    else:
        print("no jobs")


def _by(text: str) -> float | str:
    """Return seconds, or a time with its offset; end the command for anything else."""
    with suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    with suppress(ValueError):
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    return end("--by must be seconds from now, or a time such as 2030-01-31T12:00:00Z", USAGE)


def _jobs(jobs: list[dict[str, Any]]) -> Table:
    made = table("job", "state", "asked", "next question", "last error", fold="last error")
    for job in jobs:
        made.add_row(
            plain(job["jobId"]),
            word(job["state"]),
            str(job["asked"]),
            ago(job["nextAskAt"]),
            plain(job["lastError"] or "-"),
        )
    return made
