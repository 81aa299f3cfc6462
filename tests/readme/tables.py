"""The parts of the documents that the code knows better: `python -m tests.readme.tables` writes
them again between their marks, and a test holds them against the code."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

import typer

import dispatcher.cli.root
import dispatcher.settings
import receiver.cli.root
import receiver.metrics
import receiver.settings
from dispatcher.api.app import OPERATIONS
from dispatcher.api.errors import CODES
from dispatcher.app import Service
from dispatcher.audit import ACTIONS
from dispatcher.jobs import states as job_transitions
from dispatcher.states import FINAL, STATES, TRANSITIONS
from receiver.inbox.listing import Backlog
from tests.readme.documents import DISPATCHER, RECEIVER, name_of, read

_SIZES: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_TIMES: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def states() -> str:
    """Return the transitions as a diagram and as a table."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> pending: accepted"]
    lines += ["    [*] --> sending: accepted, and its lane is idle"]
    short = {pair: about.split(":")[0].split(",")[0] for pair, about in TRANSITIONS.items()}
    lines += [f"    {before} --> {after}: {short[before, after]}" for before, after in TRANSITIONS]
    lines += ["```", "", "| from | to | when |", "|---|---|---|"]
    lines += [f"| {before} | {after} | {why} |" for (before, after), why in TRANSITIONS.items()]
    ends = ", ".join(f"`{state}`" for state in STATES if state in FINAL)
    return "\n".join([*lines, "", f"Final, until an operator replays: {ends}."])


def job_states() -> str:
    """Return the transitions of a job, with the reasons that stand beside its states."""
    lines = ["| from | to | when |", "|---|---|---|"]
    transitions = job_transitions.TRANSITIONS.items()
    lines += [f"| {before} | {after} | {why} |" for (before, after), why in transitions]
    ends = ", ".join(
        f"`{state}`" for state in job_transitions.STATES if state in job_transitions.FINAL
    )
    reasons = ", ".join(f"`{reason}`" for reason in get_args(job_transitions.JobReason))
    return "\n".join([*lines, "", f"Final: {ends}. The `reason` beside one: {reasons}."])


def routes() -> str:
    """Return every route with its scope."""
    lines = ["| route | scope | |", "|---|---|---|"]
    lines += [
        f"| `{one.method} {one.path}` | {one.scope or '–'} | {one.summary} |" for one in OPERATIONS
    ]
    return "\n".join(lines)


def actions() -> str:
    """Return every action of the audit trail."""
    lines = ["| action | |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {about} |" for name, about in ACTIONS.items())])


def errors() -> str:
    """Return every code of the API's errors with its status."""
    lines = ["| code | status | |", "|---|---|---|"]
    lines += [f"| `{code}` | {status} | {about} |" for code, (status, about) in CODES.items()]
    return "\n".join(lines)


def commands(program: str, app: typer.Typer) -> str:
    """Return every command of a program."""
    lines = ["| command | |", "|---|---|"]
    for command, about in _commands(program, typer.main.get_command(app)):
        lines.append(f"| `{command}` | {about} |")
    return "\n".join(lines)


def _commands(prefix: str, group: Any) -> list[tuple[str, str]]:
    listed = []
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            listed += _commands(f"{prefix} {name}", command)
        else:
            listed.append((f"{prefix} {name}", _first_sentence(command.help or "")))
    return listed


def _first_sentence(text: str) -> str:
    flat = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z`)])[.:] ", flat)[0].rstrip(".")


def settings(module: ModuleType) -> str:
    """Return every variable with its default and its reason."""
    lines = ["| variable | default | what it is, and why |", "|---|---|---|"]
    for field in fields(module.Settings):
        default = _default(field.default, field.metadata["unit"])
        lines.append(f"| `{module.variable(field.name)}` | {default} | {field.metadata['about']} |")
    return "\n".join(lines)


def _default(value: Any, unit: str) -> str:
    if value is None or value == ():
        return "–"
    if unit == "bytes":
        return next((f"{value // n} {u}" for n, u in _SIZES if value % n == 0), str(value))
    if unit == "s":
        longer = next((f" ({value / n:g} {u})" for n, u in _TIMES if value >= max(n, 120)), "")
        return f"{value:.10g} s{longer}"
    return f"`{value}`" if isinstance(value, str) else f"{value}"


def metrics(exposition: str) -> str:
    """Return every family of an exposition with its type and its labels."""
    lines = ["| metric | type | |", "|---|---|---|"]
    for name, about in re.findall(r"^# HELP (\S+) (.*)$", exposition, re.MULTILINE):
        kind = re.search(rf"^# TYPE {name} (\w+)$", exposition, re.MULTILINE)
        lines.append(f"| `{name}` | {kind[1] if kind else ''} | {about.rstrip('.')} |")
    return "\n".join(line for line in lines if "_created`" not in line)


def _dispatcher_metrics() -> str:
    service = Service(dispatcher.settings.Settings())
    service._show_gauges()
    return metrics(service.metrics.render().decode())


def _receiver_metrics() -> str:
    backlog = Backlog(pending=0, running=0, dead=0, oldest_ms=None, expected=0, lost=0)
    return metrics(receiver.metrics.Metrics().exposition(backlog, 0))


PARTS: Final[dict[Path, dict[str, Callable[[], str]]]] = {
    DISPATCHER: {
        "states": states,
        "job-states": job_states,
        "routes": routes,
        "errors": errors,
        "actions": actions,
        "dispatcher-commands": lambda: commands("dispatcher", dispatcher.cli.root.build()),
        "dispatcher-settings": lambda: settings(dispatcher.settings),
        "dispatcher-metrics": _dispatcher_metrics,
    },
    RECEIVER: {
        "receiver-commands": lambda: commands("receiver", receiver.cli.root.app),
        "receiver-settings": lambda: settings(receiver.settings),
        "receiver-metrics": _receiver_metrics,
    },
}


def fill(document: Path) -> str:
    """Return its text with every part written again: `<!-- name -->` … `<!-- /name -->`."""
    text = read(document)
    for name, part in PARTS[document].items():
        block = f"<!-- {name} -->\n\n{part()}\n\n<!-- /{name} -->"
        pattern = rf"<!-- {name} -->.*?<!-- /{name} -->"
        text, marks = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
        if marks != 1:
            raise ValueError(f"{name_of(document)} has {marks} parts named {name}")
    return text


if __name__ == "__main__":
    for one in PARTS:
        one.write_text(fill(one), "utf-8")
