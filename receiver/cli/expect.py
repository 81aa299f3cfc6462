"""``receiver expect`` and ``receiver expected``: jobs that must not be missed."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from receiver.cli.common import EPILOG, AsJson, ask, printable

app = typer.Typer()


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
    platform: Annotated[str, typer.Option(help="auto, tensorone, runpod or cerebrium.")] = "auto",
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
    state: Annotated[str | None, typer.Option(help="expected, known or lost.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the jobs that are or were waited for, newest first.

    Example:

        receiver expected --state lost
    """
    query = {"limit": str(limit), **({"state": state} if state else {})}
    answer = ask("/expected", query)
    print(json.dumps(answer)) if as_json else Console().print(_table(answer["data"]))


def _by(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _table(jobs: list[dict[str, Any]]) -> Table:
    colours = {"known": "green", "lost": "red", "expected": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "state", "asked", "next question", "last error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        colour = colours.get(job["state"], "white")
        table.add_row(
            printable(job["jobId"]),
            f"[{colour}]{printable(job['state'])}[/{colour}]",
            str(job["asked"]),
            printable(job["nextAskAt"] or "-"),
            printable(job["lastError"] or "-"),
        )
    return table
