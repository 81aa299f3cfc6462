"""`receiver expect` and `receiver expected`: jobs that must not be missed."""

import json
import math
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.table import Table

from receiver.base.cli import ago, console, new_table, printable, word
from receiver.cli.common import EPILOG, USAGE, AsJson, ask, end

app = typer.Typer()


class Platform(StrEnum):
    """Whose answers these are."""

    AUTO = "auto"
    TENSORONE = "tensorone"
    RUNPOD = "runpod"
    CEREBRIUM = "cerebrium"


class State(StrEnum):
    """What is known of a job that was waited for."""

    EXPECTED = "expected"
    KNOWN = "known"
    LOST = "lost"


@app.command("expect", epilog=EPILOG)
def expect_command(
    job_id: Annotated[str, typer.Argument(help="The job's id, as its platform gave it.")],
    status_url: Annotated[str, typer.Option(help="Where its status can be asked for.")],
    by: Annotated[
        str, typer.Option(help="When to ask if it stays silent: ISO-8601, or seconds from now.")
    ],
    credentials: Annotated[
        str | None, typer.Option(help="Name of the credentials to ask with.")
    ] = None,
    platform: Annotated[Platform, typer.Option(help="Whose answer it is.")] = Platform.AUTO,
    source: Annotated[
        str | None, typer.Option(help="Path its callbacks come in by; the first if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have a running receiver wait for a job, and ask for it if no callback comes.

    Example:
        receiver expect job_1234567890abcdef --by 900 \\
            --status-url https://api.example.com/v2/jobs/job_1234567890abcdef/status
    """
    document = {
        "jobId": job_id,
        "statusUrl": status_url,
        "by": _by(by),
        "credentials": credentials,
        "platform": platform,
        "source": source,
    }
    given = {name: value for name, value in document.items() if value is not None}
    answer = ask("/expected", post=True, document=given)
    print(json.dumps(answer) if as_json else f"{answer['jobId']} is {answer['state']}")


@app.command("expected", epilog=EPILOG)
def expected_command(
    state: Annotated[State | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the jobs that are or were waited for, newest first.

    Example:
        receiver expected --state lost
    """
    query = {"limit": str(limit), **({"state": state} if state else {})}
    answer = ask("/expected", query)
    if as_json:
        print(json.dumps(answer))
    elif answer["data"]:
        console().print(_table(answer["data"]))
    else:
        print("no jobs")


def _by(text: str) -> float | str:
    """Seconds, or a time with its offset; ends the command for anything else."""
    with suppress(ValueError):
        seconds = float(text)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    with suppress(ValueError):
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    return end("--by must be seconds from now, or a time such as 2030-01-31T12:00:00Z", USAGE)


def _table(jobs: list[dict[str, Any]]) -> Table:
    table = new_table("job", "state", "asked", "next question", "last error", fold="last error")
    for job in jobs:
        table.add_row(
            printable(job["jobId"]),
            word(job["state"]),
            str(job["asked"]),
            ago(job["nextAskAt"]),
            printable(job["lastError"] or "-"),
        )
    return table
