"""A Dockerfile, read, and its steps carried out without an engine: each absolute path of the image
is one of a folder here, and what only root of an image can do (users, owners) is left out."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from tests.readme.documents import ROOT

_OF_ROOT: Final = ("groupadd", "useradd", "chown")


@dataclass(slots=True)
class Stage:
    """One stage: what it starts from, and its instructions in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Image:
    """What the last stage leaves: where its files are here, and how it is run."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    user: str = ""
    working: str = "/"

    def here(self, text: str) -> str:
        """Return `text` with the image's paths as they are here."""
        return re.sub(r"(?<![\w.])/(?=(?:opt|src|data)\b)", f"{self.folder}/", text)


def stages(file: Path) -> dict[str, Stage]:
    """Return the stages by name, in order."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text("utf-8"), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(name, base)
        elif word and found:
            found[list(found)[-1]].steps.append((word, rest.strip()))
    return found


def setting(stage: Stage, word: str) -> list[str]:
    """Return what follows `word` in each of its steps."""
    return [rest for name, rest in stage.steps if name == word]


def chain(every: dict[str, Stage], target: str) -> list[Stage]:
    """Return the stages that `target` continues, the first of all in front."""
    stage = every[target]
    return [*(chain(every, stage.base) if stage.base in every else []), stage]


def configured(every: dict[str, Stage], target: str, folder: Path) -> Image:
    """Return how `target` is run, with nothing in it."""
    image = Image(folder)
    for stage in chain(every, target):
        for word, rest in stage.steps:
            match word:
                case "ENV":
                    image.environment |= dict(one.split("=", 1) for one in shlex.split(rest))
                case "USER":
                    image.user = rest
                case "WORKDIR":
                    image.working = rest
                case "CMD":
                    image.command = json.loads(rest)
                case "HEALTHCHECK":
                    image.health = json.loads(rest.partition("CMD ")[2])
    return image


def build(every: dict[str, Stage], target: str, folder: Path, plain: dict[str, str]) -> Image:
    """Carry out what `target` needs, in an environment of these variables alone. Stages share one
    folder: what one leaves at a path, the next finds there."""
    image = configured(every, target, folder)
    needed = [*chain(every, target)]
    for stage in needed:
        for source in re.findall(r"--from=([\w-]+)", " ".join(setting(stage, "COPY"))):
            needed = [*(one for one in chain(every, source) if one not in needed), *needed]
    stubs = folder / "stubs"
    stubs.mkdir(parents=True)
    for name in _OF_ROOT:
        (stubs / name).write_text("#!/bin/sh\n")
        (stubs / name).chmod(0o755)
    for stage in [one for one in every.values() if one in needed]:
        where = configured(every, stage.base, folder).working if stage.base in every else "/"
        for word, rest in stage.steps:
            where = rest if word == "WORKDIR" else where
            _carry_out(image, word, rest, where, {**plain, "PATH": f"{stubs}:{plain['PATH']}"})
    return image


def _carry_out(image: Image, word: str, rest: str, where: str, plain: dict[str, str]) -> None:
    here = Path(image.here(where))
    if word == "WORKDIR":
        here.mkdir(parents=True, exist_ok=True)
    elif word == "COPY":
        _copy(image, rest.split(), here)
    elif word == "RUN":
        (image.folder / "opt").mkdir(exist_ok=True)
        subprocess.run(
            ["/bin/sh", "-ec", image.here(rest)],
            cwd=here if here.exists() else image.folder,
            env=plain,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=300,
        )


def _copy(image: Image, words: list[str], here: Path) -> None:
    *sources, target = [word for word in words if not word.startswith("--")]
    to = Path(image.here(target)) if target.startswith("/") else here / target
    if len(words) > len(sources) + 1:  # --from: it lies at the same path
        for source in sources:
            if Path(image.here(source)) != to:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(image.here(source), to)
        return
    for source in sources:
        if target.endswith("/") or target == ".":
            _take(ROOT / source, to / Path(source).name)
        else:
            _take(ROOT / source, to)


def _take(source: Path, to: Path) -> None:
    """Copy what .dockerignore lets into the build. Raises FileNotFoundError where it is nothing."""
    every = (
        [source] if source.is_file() else sorted(one for one in source.rglob("*") if one.is_file())
    )
    sent = [one for one in every if is_sent(one.relative_to(ROOT).as_posix())]
    if not sent:
        raise FileNotFoundError(f"{source} is not sent to a build: see .dockerignore")
    for one in sent:
        place = to if source.is_file() else to / one.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one, place)


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file through: the last pattern that fits it, or a folder above
    it, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parts = path.split("/")
        above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            fits = any(fnmatch(part, pattern[3:]) for part in parts)
        else:
            fits = any(fnmatch(one, pattern) for one in above)
        if fits:
            sent = line.startswith("!")
    return sent


def plain_environment(path: str) -> dict[str, str]:
    """Return what a build has of the environment: nothing but where programs are."""
    return {"PATH": path, "HOME": "/nonexistent", "LANG": "C.UTF-8"}
