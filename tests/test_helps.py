"""The form of every `--help` of both programs, at the 80 columns of a terminal."""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, Final

import pytest
import typer
from rich.text import Text

from dispatcher.cli.root import build
from receiver.base.helps import examples, tidied
from receiver.cli.root import app as receiver_app

WIDTH: Final = 80
_MARGINS: Final = 2
_BOX: Final = "│╭╰"


@cache
def tree(program: str) -> Any:
    made = build() if program == "dispatcher" else receiver_app
    return tidied(typer.main.get_command(made))


def commands(program: str) -> Iterator[tuple[str, ...]]:
    pending: list[tuple[tuple[str, ...], Any]] = [((program,), tree(program))]
    while pending:
        words, one = pending.pop()
        yield words
        pending.extend(((*words, name), sub) for name, sub in getattr(one, "commands", {}).items())


def of(words: tuple[str, ...]) -> Any:
    found = tree(words[0])
    for word in words[1:]:
        found = found.commands[word]
    return found


ALL: Final = sorted([*commands("dispatcher"), *commands("receiver")])
LEAVES: Final = [words for words in ALL if not hasattr(of(words), "commands")]
Help = Callable[[tuple[str, ...]], list[str]]


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Help:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")

    def lines(words: tuple[str, ...]) -> list[str]:
        argv = [*words[1:], "--help"]
        tree(words[0]).main(argv, prog_name=words[0], standalone_mode=False)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def shown_examples(lines: list[str]) -> list[str]:
    """Those of a help, each as one line again."""
    if " Examples" not in lines:
        return []
    whole = "\n".join(line.strip() for line in lines[lines.index(" Examples") + 1 :])
    whole = whole.partition("\n\n")[0].replace("\\\n", "")
    return [line[2:] for line in whole.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_no_line_of_a_help_is_longer_than_a_terminal_is_wide(
    words: tuple[str, ...], help_of: Help
) -> None:
    """80 columns; and its usage names the command."""
    lines = help_of(words)
    assert [line for line in lines if len(line) > WIDTH] == []
    assert lines[1].startswith(f" Usage: {' '.join(words)} ")


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_no_sentence_of_a_help_is_broken(words: tuple[str, ...], help_of: Help) -> None:
    """A line ends where the next word would not have fitted, a paragraph where its sentence does,
    and no two blanks stand between words."""
    lines = help_of(words)
    end = next(at for at, line in enumerate(lines) if line[:1] in _BOX and line)
    paragraphs = "\n".join(line.strip() for line in lines[3:end]).strip().split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        parts = paragraph.split("\n")
        assert "  " not in paragraph
        for line, following in pairwise(parts):
            assert len(line) + 1 + len(following.split()[0]) > WIDTH - _MARGINS, line
        assert paragraph.endswith((".", ":")) or number == 0, paragraph


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_what_an_option_does_is_said_whole_and_in_one_place(
    words: tuple[str, ...], help_of: Help
) -> None:
    """No text of an option is cut or interrupted, none shows a type of Python, and what is a flag
    takes nothing."""
    lines = help_of(words)
    flat = " ".join(" ".join(line.strip(_BOX).split()) for line in lines)
    for param in of(words).params:
        if param.hidden:
            continue
        text = " ".join(Text.from_markup(param.help or "").plain.split())
        assert text, param.name
        assert text in flat
    assert not re.search(r"<(bool|str|int|float|list|path|int range)\b", flat)


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_shows_how_it_is_typed(words: tuple[str, ...], help_of: Help) -> None:
    """There are examples; each is one command of a shell, with options that there are."""
    shown = shown_examples(help_of(words))
    assert shown
    assert any(f"{' '.join(words)} " in f"{line} " for line in shown) or "--" in shown[0]
    for line in shown:
        bare = line.replace("$(", "").replace("$fpath", "")
        typed = shlex.split(bare, comments=True)
        assert words[0] in typed or "completion" in line
        for part in _programs(typed, words[0]):
            _check_typed(part)


def _programs(typed: list[str], program: str) -> Iterator[list[str]]:
    """The calls of the program in a line."""
    part: list[str] = []
    for word in [*typed, "|"]:
        if word in ("|", "&&", ">", ">>", "<"):
            if program in part:
                yield part[part.index(program) :]
            part = []
        else:
            part.append(word)


def _check_typed(part: list[str]) -> None:
    command, known = tree(part[0]), set[str]()
    for word in part[1:]:
        known.update(*(param.opts for param in command.params))
        known.update(*(param.secondary_opts for param in command.params))
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif word.startswith("--"):
            assert word in known | {"--help"}, part


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("dispatcher list", ["  $ dispatcher list"]),
        ("a # b", ["  $ a # b"]),
        (
            f"dispatcher send --to https://{'x' * 40} --payload '{{\"a\": 1}}' --wait",
            [
                f"  $ dispatcher send --to https://{'x' * 40} \\",
                "      --payload '{\"a\": 1}' --wait",
            ],
        ),
        (
            f"dispatcher show {'x' * 50}   [dim]# what became of it[/dim]",
            ["  # what became of it", f"  $ dispatcher show {'x' * 50}"],
        ),
    ],
)
def test_an_example_that_is_too_long_goes_on_as_a_shell_reads_it(
    line: str, expected: list[str]
) -> None:
    """Quotes stay whole, an option keeps its value, and a comment stands above."""
    assert Text.from_markup(examples(line)).plain.splitlines()[1:] == expected
