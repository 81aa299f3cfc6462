"""The documents keep their word."""

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import dispatcher.cli.root
import receiver.cli.root
from tests.readme.documents import DOCUMENTS, README, ROOT, anchors, blocks, name_of, read
from tests.readme.tables import PARTS, fill

README_LINES_MAX = 200
SHIPPED = ("dispatcher", "receiver", "deploy")
document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@pytest.mark.parametrize("document", PARTS, ids=name_of)
def test_tables_are_what_the_code_says(document: Path) -> None:
    """Every setting, route, error, command, metric and state stands there as the code has it;
    write them again with `python -m tests.readme.tables`."""
    assert fill(document) == read(document)


def test_the_readme_is_short() -> None:
    """It is for the first five minutes; the rest is in the guides."""
    assert len(read(README).splitlines()) <= README_LINES_MAX


@document
def test_links_lead_somewhere(document: Path) -> None:
    """No link within our documents names a file or a heading that there is not."""
    links = re.findall(r"\]\(([^)\s]+)\)", read(document))
    for link in (one for one in links if "://" not in one):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@document
def test_named_paths_exist(document: Path) -> None:
    """Every file and folder of ours that it names is there."""
    named = re.findall(
        r"`((?:dispatcher|receiver|deploy|tests)/[\w./-]*|[A-Z]+\.md)`", read(document)
    )
    missing = [
        path
        for path in named
        if not any((base / path).exists() for base in (ROOT, document.parent))
    ]
    assert not missing


@document
def test_make_targets_exist(document: Path) -> None:
    """Every `make` target that it names is there."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make (\w+)", read(document), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_nothing_pretends_to_be_published() -> None:
    """No index has the distribution: a line that installs it from one would install another's."""
    files = [
        path
        for folder in SHIPPED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"  # what is left of a file that is gone
    ]
    pretending = [
        name_of(path)
        for path in [*files, *ROOT.glob("*.md"), ROOT / "Makefile"]
        if re.search(rb"pip install [^\n]*[\"' ]postback[\[\"'`\s]", path.read_bytes())
    ]
    assert not pretending


@document
def test_extras_exist(document: Path) -> None:
    """What it tells to install is an extra of the distribution."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for names in re.findall(r"'\S*\[([\w,]+)\]'", read(document)):
        assert set(names.split(",")) <= project["optional-dependencies"].keys()


@document
@pytest.mark.parametrize("program", ["dispatcher", "receiver"])
def test_commands_shown_are_understood(program: str, document: Path) -> None:
    """Every command line parses: the command and its options exist (asked with --help)."""
    for line in _commands(program, document):
        words = shlex.split(line, comments=True)
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        command = _after_general_options(words[1:])
        shown = _help(program, ()) + _help(program, command)
        assert options <= set(re.findall(r"--[\w-]+", shown)), line


def _commands(program: str, document: Path) -> list[str]:
    joined = (one.replace("\\\n", " ") for one in blocks(document, "sh"))
    lines = [line.strip() for one in joined for line in one.splitlines()]
    inline = re.findall(rf"`({program} [a-z][^`…]*)`", read(document))
    plain = [line for line in lines if re.match(rf"{program} [a-z-]", line)]
    return [_first_command(line) for line in [*plain, *inline] if "\n" not in line]


def _first_command(line: str) -> str:
    return re.split(r" [>|&]", line)[0]


def _after_general_options(words: list[str]) -> tuple[str, ...]:
    """The command's own words; the options before it take one value each."""
    while words and words[0].startswith("--"):
        words = words[1:] if "=" in words[0] else words[2:]
    return tuple(word for word in words if not word.startswith("-"))[:2]


@cache
def _app(program: str) -> typer.Typer:
    return dispatcher.cli.root.build() if program == "dispatcher" else receiver.cli.root.app


@cache
def _help(program: str, words: tuple[str, ...]) -> str:
    """The help of the longest prefix of `words` that is a command."""
    for length in range(len(words), -1, -1):
        if words and not length:
            break
        shown = CliRunner().invoke(
            _app(program), [*words[:length], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}
        )
        if shown.exit_code == 0:
            return shown.output
    raise AssertionError(f"no such command: {program} {' '.join(words)}")
