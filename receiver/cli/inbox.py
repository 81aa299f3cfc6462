"""``receiver inbox``: what a running receiver has in its inbox, and what is to be done about it."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from receiver.cli.common import EPILOG, USAGE, AsJson, ask, end, printable

app = typer.Typer(
    help="What a running receiver has in its inbox.", epilog=EPILOG, no_args_is_help=True
)


@app.command("list", epilog=EPILOG)
def list_command(
    status: Annotated[str | None, typer.Option(help="accepted, conflict or late.")] = None,
    state: Annotated[
        str | None,
        typer.Option(help="pending, running, handled, dead, ignored or skipped."),
    ] = None,
    job_id: Annotated[str | None, typer.Option(help="Only this job's messages.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on from a page's nextCursor.")] = None,
    as_json: AsJson = False,
) -> None:
    """List messages, newest first.

    Examples:

        receiver inbox list --status conflict

        receiver inbox list --job-id job_1234567890abcdef --json
    """
    asked = {
        "status": status,
        "state": state,
        "jobId": job_id,
        "limit": str(limit),
        "cursor": cursor,
    }
    page = ask("/inbox", {name: value for name, value in asked.items() if value is not None})
    if as_json:
        print(json.dumps(page))
        return
    Console().print(_table(page["data"]))
    if page["nextCursor"]:
        print(f"more: receiver inbox list --cursor {page['nextCursor']}")


@app.command("show", epilog=EPILOG)
def show_command(
    id: Annotated[int, typer.Argument(help="The message's id, as listed.", min=1)],
    as_json: AsJson = False,
) -> None:
    """Show one message with its body.

    Example:

        receiver inbox show 42
    """
    message = ask(f"/inbox/{id}")
    if as_json:
        print(json.dumps(message))
        return
    console = Console()
    for name, value in message.items():
        if value is not None and name not in ("body", "lastError"):
            console.print(f"[bold]{name}[/bold]  {printable(value)}", highlight=False)
    if message["lastError"]:
        console.print(f"\n[red]{printable(message['lastError'])}[/red]", highlight=False)
    if "body" in message:
        console.print(f"\n{printable(message['body'])}", highlight=False)


def _table(messages: list[dict[str, Any]]) -> Table:
    colours = {"accepted": "green", "conflict": "red", "late": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "id",
        "status",
        "state",
        "job",
        "job status",
        "message",
        "received",
        "duplicates",
    ):
        table.add_column(column, overflow="fold")
    for message in messages:
        colour = colours.get(message["status"], "white")
        table.add_row(
            str(message["id"]),
            f"[{colour}]{printable(message['status'])}[/{colour}]",
            printable(message["state"]),
            *(printable(message[name] or "-") for name in ("jobId", "jobStatus", "messageId")),
            printable(message["receivedAt"]),
            str(message["duplicates"]),
        )
    return table


@app.command("replay", epilog=EPILOG)
def replay_command(
    id: Annotated[int | None, typer.Argument(help="The message's id, as listed.", min=1)] = None,
    all_dead: Annotated[bool, typer.Option("--dead", help="All that are dead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hand a message to its handler again: a dead one, or one that was ignored or skipped.

    Examples:

        receiver inbox replay 42

        receiver inbox replay --dead
    """
    if (id is None) is not all_dead:
        end("give one message's id, or --dead", USAGE)
    if id is not None:
        answer = ask(f"/inbox/{id}/replay", post=True)
        told = f"message {id} is pending"
    else:
        answer = ask("/inbox/replay", {"state": "dead"}, post=True)
        told = f"replayed: {answer['replayed']}"
    print(json.dumps(answer) if as_json else told)


@app.command("prune", epilog=EPILOG)
def prune_command(
    older_than_days: Annotated[
        float | None,
        typer.Option(help="Instead of RECEIVER_KEEP_BODIES and _KEEP_MESSAGES.", min=0, max=3650),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete what is done with and old. What waits or is dead stays, whatever its age.

    Pruned messages are forgotten: a copy that comes in later is new.

    Examples:

        receiver inbox prune

        receiver inbox prune --older-than-days 120
    """
    query = None
    if older_than_days is not None:
        query = {"olderThan": str(round(older_than_days * 86_400))}
    answer = ask("/inbox/prune", query, post=True)
    told = f"pruned: {answer['bodies']} bodies, {answer['messages']} messages"
    print(json.dumps(answer) if as_json else told)
