"""`receiver check`: whether a receiver, in whatever language, loses or doubles anything."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from rich.table import Table

from receiver.base.cli import FAILED, USAGE, console, plain, table
from receiver.base.options import Printing, command, duration_s
from receiver.base.secrets import mistaken_for_secret
from receiver.base.settings import SettingError
from receiver.cli.common import PrintingDep, SecretFile, end, secrets
from receiver.settings import load_ca_file
from receiver.signature import v1_key

if TYPE_CHECKING:
    from receiver.conformance.judge import Finding

app = typer.Typer()

EFFECTS_WAIT_S: Final = 5.0  # time for handlers that run after the answer
_WAIT_S_MAX: Final = 600.0
_MARKS: Final = {
    "ok": "[green]✓[/green]",
    "wrong": "[bold red]✗[/bold red]",
    "advice": "[yellow]![/yellow]",
}


def _wait_s(text: str | float) -> float:
    """Return a length of time that a check may take. Raises typer.BadParameter."""
    wait_s = duration_s(text)
    if wait_s > _WAIT_S_MAX:
        raise typer.BadParameter(f"--wait is {_WAIT_S_MAX:g} s at most")
    return wait_s


@command(
    app,
    "check",
    "receiver check http://127.0.0.1:3000/webhooks --secret whsec_…",
    "receiver check http://127.0.0.1:3000/webhooks --effects http://127.0.0.1:3000/handled",
)
def check_command(
    how: PrintingDep,
    url: Annotated[str, typer.Argument(help="Where the receiver takes deliveries.")],
    secret: Annotated[
        str | None, typer.Option(help="Its signing secret; RECEIVER_SECRETS where not given.")
    ] = None,
    effects: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Answers what your handler was handed, {job: \\[status, …]} in JSON; without it "
            "only answers are checked.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            parser=_wait_s,
            help="How long handlers may take: 2s, 2m; otherwise 5s.",
            show_default=False,
        ),
    ] = EFFECTS_WAIT_S,
    schemes: Annotated[
        Literal["both", "sha256", "standard"], typer.Option(help="Sign with one scheme only.")
    ] = "both",
    secret_file: SecretFile = None,
) -> None:
    """Try a receiver, written in any language, and print what it should have done.

    It gets valid, repeated, racing, out-of-order, forged, stale, malformed and huge deliveries.
    ✗ is what loses, doubles or believes what it must not (exit 1); ! is advice. It makes some
    fifty jobs named check_…: point it at a receiver under test."""
    from receiver.conformance.endpoint import KitError
    from receiver.conformance.kit import check

    if secret is not None and (what := mistaken_for_secret(secret)) is not None:
        end(f"--secret {what}", USAGE)
    active = secret or secrets(secret_file, Path(".none"))[0]
    if schemes != "sha256" and not _is_base64(active):
        end("the secret is not base64, which the standard scheme needs: --schemes sha256", USAGE)
    _look_at(url, *([] if effects is None else [effects]))
    try:
        findings = asyncio.run(
            check(
                url,
                active,
                effects_url=effects,
                schemes=schemes,
                wait_s=wait,
                ca_file=load_ca_file(),
            )
        )
    except (KitError, SettingError) as error:
        end(str(error), FAILED)
    wrong = sum(finding.grade == "wrong" for finding in findings)
    _print(findings, wrong, how, effects_seen=effects is not None)
    raise typer.Exit(FAILED if wrong else 0)


def _look_at(*urls: str) -> None:
    """End unless these can be URLs of a receiver."""
    from receiver.conformance.endpoint import check_url

    for url in urls:
        try:
            check_url(url)
        except ValueError as error:
            end(str(error), USAGE)


def _print(findings: "list[Finding]", wrong: int, how: Printing, *, effects_seen: bool) -> None:
    if how.json:
        print(json.dumps({"wrong": wrong, "findings": [asdict(finding) for finding in findings]}))
        return
    out = console()
    out.print(_table(findings), "")
    for grade in ("wrong", "advice"):
        for why, names in _reasons(findings, grade).items():
            row = Table.grid(padding=(0, 2, 0, 0))
            row.add_row(_MARKS[grade], plain(why))
            row.add_row("", plain(", ".join(names), "dim"))
            out.print(row)
    advice = sum(finding.grade == "advice" for finding in findings)
    print(f"{len(findings)} cases, {wrong} wrong, {advice} with advice")
    if not effects_seen:
        print("what was handled was not looked at: --effects URL")


def _reasons(findings: "list[Finding]", grade: str) -> dict[str, list[str]]:
    """Return the names of the cases by what to do about them."""
    names_by_reason: dict[str, list[str]] = {}
    for finding in findings:
        if finding.grade == grade:
            names_by_reason.setdefault(finding.why, []).append(finding.name)
    return names_by_reason


def _is_base64(secret: str) -> bool:
    try:
        v1_key(secret)
    except ValueError:
        return False
    return True


def _table(findings: "list[Finding]") -> Table:
    made = table("", "DELIVERY", "SHOULD BE", "WAS", fold="WAS")
    for finding in findings:
        made.add_row(
            _MARKS[finding.grade],
            plain(finding.name),
            plain(finding.should),
            plain(finding.did),
        )
    return made
