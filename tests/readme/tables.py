"""The parts of the README that the code knows better: `python -m tests.readme.tables` writes them
anew between their marks, and a test holds them against the code."""

import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

import dispatcher.cli
import dispatcher.settings
import receiver.cli.root
import receiver.settings
from dispatcher.api.routes import OPERATIONS
from dispatcher.states import FINAL, STATES, TRANSITIONS

README = Path(__file__).parents[2] / "README.md"
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_DAY_S = 86_400


def generated() -> dict[str, str]:
    """Each part by the name of its mark."""
    return {
        "states": states(),
        "routes": routes(),
        "commands": commands(),
        "dispatcher-settings": settings(dispatcher.settings),
        "receiver-settings": settings(receiver.settings),
    }


def states() -> str:
    """The transitions as a diagram and as a table."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> pending: accepted"]
    lines += ["    [*] --> sending: accepted, and its lane is idle"]
    short = {pair: about.split(":")[0].split(",")[0] for pair, about in TRANSITIONS.items()}
    lines += [f"    {before} --> {after}: {short[before, after]}" for before, after in TRANSITIONS]
    lines += ["```", "", "| from | to | when |", "|---|---|---|"]
    lines += [f"| {before} | {after} | {why} |" for (before, after), why in TRANSITIONS.items()]
    ends = ", ".join(f"`{state}`" for state in STATES if state in FINAL)
    return "\n".join([*lines, "", f"Final, until someone replays: {ends}."])


def routes() -> str:
    """Every route with its scope."""
    lines = ["| route | scope | |", "|---|---|---|"]
    lines += [
        f"| `{one.method} {one.path}` | {one.scope or '–'} | {one.summary} |" for one in OPERATIONS
    ]
    return "\n".join(lines)


def commands() -> str:
    """Every command of both programs."""
    lines = ["| command | |", "|---|---|"]
    for name, app in (("dispatcher", dispatcher.cli.build()), ("receiver", receiver.cli.root.app)):
        for command, about in _commands(name, typer.main.get_command(app)):
            lines.append(f"| `{command}` | {about} |")
    return "\n".join(lines)


def _commands(prefix: str, group: Any) -> list[tuple[str, str]]:
    found = []
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            found += _commands(f"{prefix} {name}", command)
        else:
            found.append((f"{prefix} {name}", _first_sentence(command.help or "")))
    return found


def _first_sentence(text: str) -> str:
    flat = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z`)])[.:] ", flat)[0].rstrip(".")


def settings(module: ModuleType) -> str:
    """Every variable with its default and its reason."""
    lines = ["| variable | default | what it is, and why |", "|---|---|---|"]
    for field in fields(module.Settings):
        default = _shown(field.default, field.metadata["unit"])
        lines.append(f"| `{module.variable(field.name)}` | {default} | {field.metadata['about']} |")
    return "\n".join(lines)


def _shown(default: Any, unit: str) -> str:
    if default is None or default == ():
        return "–"
    if unit == "bytes":
        return next((f"{default // n} {u}" for n, u in _UNITS if default % n == 0), str(default))
    if unit == "s":
        days = default >= _DAY_S and default % _DAY_S == 0
        return f"{default:g} s" + (f" ({default / _DAY_S:g} d)" if days else "")
    return f"`{default}`" if isinstance(default, str) else f"{default}"


def fill(text: str) -> str:
    """`text` with every part written anew: `<!-- name -->` … `<!-- /name -->`."""
    for name, part in generated().items():
        block = f"<!-- {name} -->\n\n{part}\n\n<!-- /{name} -->"
        pattern = rf"<!-- {name} -->(?:.*?<!-- /{name} -->)?"
        text, found = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
        if found != 1:
            raise ValueError(f"the README has {found} marks named {name}")
    return text


if __name__ == "__main__":
    README.write_text(fill(README.read_text("utf-8")), "utf-8")
