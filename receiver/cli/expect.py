"""`receiver expect`, `receiver expected`: about the jobs that must not be missed."""

import math
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from receiver.base.cli import USAGE, ago, console, lines, plain, table
from receiver.base.options import command, duration_s
from receiver.cli.common import ServiceDep, end, word
from receiver.client import is_time
from receiver.inbox.expectations import Expected
from receiver.verification.identity import Dialect

app = typer.Typer()

# What is shown of an answer, and so must be in it.
_JOB: Final[dict[str, Any]] = {
    "jobId": str,
    "state": str,
    "asked": int,
    "nextAskAt": (is_time, None),
    "lastError": (str, None),
}


@command(
    app,
    "expect",
    "receiver expect job_1 --by 15m --status-url https://api.example.com/v2/jobs/job_1/status",
)
def expect_command(
    service: ServiceDep,
    job_id: Annotated[str, typer.Argument(help="The job's id, as its platform gave it.")],
    status_url: Annotated[str, typer.Option(help="Where its status can be asked for.")],
    by: Annotated[
        str, typer.Option(help="When to ask if it stays silent: 90, 15m (from now), or ISO-8601.")
    ],
    credentials: Annotated[
        str | None, typer.Option(help="Name of the credentials to ask with.")
    ] = None,
    platform: Annotated[Dialect, typer.Option(help="Whose answer it is.")] = "auto",
    source: Annotated[
        str | None, typer.Option(help="Path its callbacks come in by; the first if not given.")
    ] = None,
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
    response = service.ask("/expected", post=True, document=document, shape=shape)
    if service.json:
        service.print_document(response)
    else:
        console().print(plain(f"{response['jobId']} is {response['state']}"))


@command(app, "expected", "receiver expected --state lost")
def expected_command(
    service: ServiceDep,
    state: Annotated[Expected | None, typer.Option(help="Only these.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1, max=500)] = 50,
) -> None:
    """List the jobs that are or were waited for, newest first."""
    query = {"limit": str(limit), **({"state": state} if state else {})}
    response = service.ask("/expected", query, shape={"data": [_JOB]})
    if service.json:
        service.print_document(response)
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
    with suppress(typer.BadParameter):
        return duration_s(text)
    with suppress(ValueError):
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    message = "--by must be seconds from now, 15m or 2h, or a time such as 2030-01-31T12:00:00Z"
    return end(message, USAGE)


def _jobs(jobs: list[dict[str, Any]]) -> Table:
    made = table("JOB", "STATE", "ASKED", "NEXT QUESTION", fold="JOB")
    for job in jobs:
        told = [] if job["lastError"] is None else [plain(job["lastError"], "red")]
        made.add_row(
            lines(plain(job["jobId"]), *told),
            word(job["state"]),
            str(job["asked"]),
            ago(job["nextAskAt"]),
        )
    return made
