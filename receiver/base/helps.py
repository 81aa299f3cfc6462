"""The form of a `--help`: what an option takes, in a word, and examples that can be copied from a
terminal of 80 columns."""

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, Final

import typer

HELP: Final = ("-h", "--help")
# A terminal of 80 columns, less the margins and what stands before a command.
_WIDTH: Final = 74
_CHOICES_MAX: Final = 24  # more characters than these would be broken inside a word
_COMMENT: Final = re.compile(r"\s+(\[dim\]#.*)")
_WORDS: Final = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")  # what is in quotes stays whole


def examples(*lines: str) -> str:
    """Return the end of a help: one example after the other, as it is typed; what is too long for
    a line goes on in the next one, as a shell reads it."""
    shown = ["[bold]Examples[/bold]"]
    for line in lines:
        command, comment = _without_comment(line)
        if comment:
            shown.append(f"  {comment}")
        first, *others = [*_parts(command)]
        shown.append(f"[dim]  $[/dim] {first}")
        # A line that begins with markup keeps its blanks.
        shown.extend(f"[dim]      [/dim]{part}" for part in others)
    return "\n".join(shown)


def _without_comment(line: str) -> tuple[str, str]:
    """Return a line and, where both together are too long, its comment apart."""
    if len(re.sub(r"\[/?dim\]", "", line)) <= _WIDTH:
        return line, ""
    found = _COMMENT.search(line)
    return (line, "") if found is None else (line[: found.start()], found[1])


def _parts(command: str) -> Iterator[str]:
    """Yield a command in lines; an option and its value stay together."""
    if len(re.sub(r"\[/?dim\]", "", command)) <= _WIDTH:
        yield command
        return
    pieces: list[str] = []
    for word in _WORDS.findall(command):
        if (
            pieces
            and re.fullmatch(r"--?[a-z-]+|\||>>?|<", pieces[-1])
            and not word.startswith(("-", "|"))
        ):
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    line = pieces[0]
    for piece in pieces[1:]:
        if len(line) + len(piece) + len("  \\") > _WIDTH:
            yield f"{line} \\"
            line = piece
        else:
            line += f" {piece}"
    yield line


def tidied(command: Any) -> Any:
    """Return a program with helps that read well: lines break at the terminal's width alone, flags
    take nothing, what others take has a word, and many choices stand in the text."""
    pending = [command]
    while pending:
        one = pending.pop()
        pending.extend(getattr(one, "commands", {}).values())
        one.help = _flowing(one.help or "")
        flag = one.get_help_option(typer.Context(one, help_option_names=[*HELP]))
        for param in (*one.params, flag):
            if hasattr(
                param, "type_descriptor"
            ):  # other versions of typer name things by themselves
                _name(param)
    return command


def _flowing(text: str) -> str:
    """Return paragraphs without the line ends of the source."""
    return "\n\n".join(" ".join(part.split()) for part in cleandoc(text).split("\n\n"))


def _name(param: Any) -> None:
    """Say what a parameter takes."""
    kind = param.type_descriptor
    choices = [str(one) for one in kind.choices] if kind.is_choice else []
    label = (param.name or "").upper().replace("_", "-")
    if param.param_type_name == "argument":
        param.metavar = param.metavar or label
        param.display_type_rich = lambda ctx: None
    elif param.metavar is None and param.is_flag:
        param.metavar = ""
    elif param.metavar is None and not choices:
        param.metavar = "N" if kind.annotation in (int, float) else "TEXT"
    elif param.metavar is None and len("|".join(choices)) <= _CHOICES_MAX:
        param.metavar = "|".join(choices)
        choices = []
    elif param.metavar is None:
        param.metavar = label
    if choices:
        param.help = f"{(param.help or '').rstrip('.')}: {', '.join(choices)}."
