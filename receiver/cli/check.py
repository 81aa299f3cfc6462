"""``receiver check``: is a receiver, in whatever language, one that loses and doubles nothing?"""

import asyncio
import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from receiver.cli.common import (
    EPILOG,
    FAILED,
    USAGE,
    AsJson,
    SecretFile,
    end,
    printable,
    secrets,
)
from receiver.signature import v1_key

if TYPE_CHECKING:
    from receiver.conformance.kit import Finding

app = typer.Typer()


class Schemes(StrEnum):
    """What the deliveries are signed with."""

    BOTH = "both"
    SHA256 = "sha256"
    STANDARD = "standard"


@app.command("check", epilog=EPILOG)
def check_command(
    url: Annotated[str, typer.Argument(help="Where the receiver takes deliveries.")],
    secret: Annotated[
        str | None, typer.Option(help="Its signing secret; RECEIVER_SECRETS where not given.")
    ] = None,
    effects: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Answers what was handled, {job: [status, …]} in JSON; without it only answers "
            "are checked.",
        ),
    ] = None,
    schemes: Annotated[Schemes, typer.Option(help="Sign with one scheme only.")] = Schemes.BOTH,
    secret_file: SecretFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a receiver valid, repeated, racing, forged, stale, huge, malformed and out-of-order
    deliveries, and print what it did and what it should have done. Exit 1 if anything is wrong.

    It makes some twenty jobs named check_…: point it at a receiver under test.

    Example:

        receiver check http://127.0.0.1:8700/webhooks --secret whsec_…
    """
    from receiver.conformance.kit import KitError, check

    active = secret or secrets(secret_file, Path(".none"))[0]
    if schemes is not Schemes.SHA256 and not _is_base64(active):
        end("the secret is not base64, which the standard scheme needs: --schemes sha256", USAGE)
    try:
        findings = asyncio.run(check(url, active, effects_url=effects, schemes=schemes.value))
    except KitError as error:
        end(str(error), FAILED)
    wrong = sum(finding.grade == "wrong" for finding in findings)
    if as_json:
        print(json.dumps({"wrong": wrong, "findings": [asdict(finding) for finding in findings]}))
    else:
        Console().print(_table(findings))
        print(f"{len(findings)} cases, {wrong} wrong")
        if effects is None:
            print("effects were not looked at: --effects URL shows what was handled")
    raise typer.Exit(FAILED if wrong else 0)


def _is_base64(secret: str) -> bool:
    try:
        v1_key(secret)
    except ValueError:
        return False
    return True


def _table(findings: "list[Finding]") -> Table:
    marks = {
        "ok": "[green]✓[/green]",
        "wrong": "[bold red]✗[/bold red]",
        "advice": "[yellow]![/yellow]",
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "delivery", "should be", "was"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(
            marks[finding.grade],
            printable(finding.name),
            printable(finding.should),
            printable(finding.did),
        )
    return table
