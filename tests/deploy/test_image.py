"""The images: linted; built step by step without an engine; and what they hold runs as nobody on a
root that it cannot write to.

What is left out: users and owners, which only root of an image can make, and the download of
dependencies, which are those of this environment. The base image cannot be had here at all.
"""

import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from dispatcher.demo.processes import free_ports
from receiver.base.settings import FILE
from tests.deploy import dockerfile
from tests.deploy.dockerfile import Image
from tests.deploy.pages import TOOLS
from tests.readme.documents import ROOT, blocks, read
from tests.sdk.installed import SDK, lacking, needs

FILE_OF_IMAGES: Final = ROOT / "deploy" / "Dockerfile"
PAGE: Final = ROOT / "deploy" / "README.md"
EVERY: Final = dockerfile.stages(FILE_OF_IMAGES)
TARGETS: Final = ("dispatcher", "receiver")
NOBODY: Final = "10001"
KEY: Final = "a-key-for-the-image"
SECRET: Final = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
SITE: Final = site.getsitepackages()[0]
_WITHIN_S: Final = 60.0


def test_hadolint_finds_nothing() -> None:
    """Of any severity, with no rule left out."""
    hadolint = needs(TOOLS / "hadolint")
    ran = subprocess.run([hadolint, FILE_OF_IMAGES], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_run_by_nobody_and_ends_in_order(target: str) -> None:
    """Its last user is a number that is not root's, its commands are no line of a shell, which
    would keep signals to itself, and it says whether it lives."""
    stages = dockerfile.chain(EVERY, target)
    image = dockerfile.configured(EVERY, target, Path("/nowhere"))
    assert image.user == f"{NOBODY}:{NOBODY}"
    assert image.command[0] == target
    assert image.health[0] == "python"
    assert image.working == "/data"
    assert [one for stage in stages for one in dockerfile.setting(stage, "VOLUME")] == ["/data"]
    assert [one for stage in stages for one in dockerfile.setting(stage, "STOPSIGNAL")] == [
        "SIGTERM"
    ]
    assert image.environment["PATH"].startswith("/opt/postback/bin:")


def test_what_runs_is_built_elsewhere() -> None:
    """The stages that are run install nothing; they take the environment that another one made."""
    for target in TARGETS:
        for stage in dockerfile.chain(EVERY, target):
            assert not [one for one in dockerfile.setting(stage, "RUN") if "pip" in one]
        assert dockerfile.setting(EVERY[target], "COPY") == [
            f"--from=build-{target} /opt/postback /opt/postback"
        ]


def test_python_is_the_one_that_the_constraints_were_tried_with() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", read(FILE_OF_IMAGES), re.MULTILINE)
    assert base.startswith("python:3.11-slim-")
    assert {stage.base for stage in EVERY.values()} <= {"${BASE}", *EVERY}


def test_nothing_but_the_code_is_sent_to_a_build() -> None:
    """No database, no key, no environment of ours gets into a layer by mistake."""
    for path in ("dispatcher/app.py", "receiver/base/log.py", "deploy/constraints.txt", "LICENSE"):
        assert dockerfile.is_sent(path), path
    for path in (
        *(".env", ".git/config", "postback.db", "postback.db.key", "dispatcher/postback.db.key"),
        *("deploy/compose/secrets/admin-key", "tests/theft.py", "receiver/__pycache__/app.pyc"),
        *(".venv/bin/python", "build/try/receiver.db-wal"),
    ):
        assert not dockerfile.is_sent(path), path


def test_the_page_builds_the_targets_that_there_are() -> None:
    found = re.findall(r"docker build -f (\S+) --target (\w+) -t (\S+) \.", "\n".join(blocks(PAGE)))
    assert found == [("deploy/Dockerfile", one, f"postback-{one}") for one in TARGETS]
    in_file = re.findall(
        r"#   docker build -f (\S+) --target (\w+) -t (\S+) \.", read(FILE_OF_IMAGES)
    )
    assert in_file == found


def as_nobody() -> list[str]:
    """What starts a program as the image's user: the root is read-only, and of what root may do it
    keeps only looking into folders, since our Python may lie in one of root's. Skips where that
    cannot be done."""
    setpriv, unshare = shutil.which("setpriv"), shutil.which("unshare")
    if os.geteuid() != 0 or setpriv is None or unshare is None:
        lacking("only root, with setpriv and unshare, can try an image's user and read-only root")
    assert setpriv is not None
    assert unshare is not None
    may = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    words = [
        setpriv,
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        *may,
        "--no-new-privs",
    ]
    closed = 'mount -o remount,bind,ro / && exec "$@"'
    start = [unshare, "-m", "sh", "-c", closed, "sh", *words]
    ran = subprocess.run([*start, "true"], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        lacking(f"a read-only root cannot be had here: {ran.stderr.strip()}")
    return start


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """Both images, in folders."""
    needs(SDK / "tools")
    # pip's variable for this switch says whether there is isolation.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    setuptools = next((SDK / "tools" / "lib").glob("python*/site-packages"))
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    plain = {**dockerfile.plain_environment(path), **offline, "PYTHONPATH": str(setuptools)}
    made = {}
    for target in TARGETS:
        folder = tmp_path_factory.mktemp(target)
        made[target] = dockerfile.build(EVERY, target, folder, plain)
    return made


def inside(image: Image, ports: tuple[int, int], more: dict[str, str]) -> dict[str, str]:
    """The environment that the image gives, its paths as they are here."""
    given = {name: image.here(value) for name, value in image.environment.items()}
    path = given["PATH"].replace("$PATH", "/usr/bin:/bin")
    dispatcher_port, receiver_port = ports
    return {
        **given,
        "PATH": path,
        "PYTHONPATH": SITE,  # what pip would have loaded
        "DISPATCHER_PORT": str(dispatcher_port),
        "RECEIVER_PORT": str(receiver_port),
        **more,
    }


@contextmanager
def running(
    image: Image, start: list[str], variables: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """The image's command, once its health check says that it lives; ended as an engine ends it."""
    data = image.folder / "data"
    os.chown(data, int(NOBODY), int(NOBODY))
    health = [image.here(word) for word in image.health]
    with (image.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*start, *image.command], cwd=data, env=variables, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + _WITHIN_S
        while subprocess.run([*start, *health], env=variables, cwd=data, check=False).returncode:
            assert process.poll() is None, (image.folder / "log").read_text()
            assert time.monotonic() < until, (image.folder / "log").read_text()
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_WITHIN_S)


def test_what_the_images_hold_delivers_as_nobody_on_a_read_only_root(
    built: dict[str, Image],
) -> None:
    """Both services out of their images, with the images' environment and nothing else: a callback
    gets through, each lives by its own health check, SIGTERM ends them with 0, and what they wrote
    is theirs and in /data alone. They run without memory that can be written and run, as the
    systemd units have it."""
    start = [*as_nobody(), sys.executable, "-c", NO_WRITTEN_CODE]
    dispatcher, receiver = (built[target] for target in TARGETS)
    first, second = free_ports(2)
    ports = (first, second)
    ours = {"DISPATCHER_ADMIN_KEY": KEY, "DISPATCHER_SIGNING_SECRET": SECRET}
    ours["DISPATCHER_ALLOW_NETWORKS"] = "127.0.0.0/8"
    (receiver.folder / "data" / "shop.py").write_text(SHOP)
    secret = receiver.folder / "secret"
    secret.write_text(SECRET)
    receiver.command += ["--handler", "shop:receiver"]
    before = {target: files_of(image) for target, image in built.items()}
    with (
        running(dispatcher, start, inside(dispatcher, ports, ours)) as one,
        running(
            receiver, start, inside(receiver, ports, {f"RECEIVER_SECRETS{FILE}": str(secret)})
        ) as other,
    ):
        submit(ports)
        log = receiver.folder / "log"
        until = time.monotonic() + _WITHIN_S
        while "job_1 completed" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
    assert (one.returncode, other.returncode) == (0, 0)
    for target, image in built.items():
        made = files_of(image) - before[target]
        assert made, target
        assert {path.parts[0] for path in made} == {"data"}, target
        owners = {(image.folder / path).stat().st_uid for path in made}
        assert owners == {int(NOBODY)}, target


def files_of(image: Image) -> set[Path]:
    return {
        path.relative_to(image.folder)
        for path in image.folder.rglob("*")
        if path.is_file() and path.name not in ("log", "secret")
    }


def submit(ports: tuple[int, int]) -> None:
    body = {
        "jobId": "job_1",
        "callbackUrl": f"http://127.0.0.1:{ports[1]}/webhooks",
        "payload": {"jobId": "job_1", "status": "completed"},
    }
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{ports[0]}/v1/callbacks"
    with urlopen(Request(url, json.dumps(body).encode(), headers)) as answer:
        assert answer.status == 202


def test_the_health_check_says_what_is_wrong(built: dict[str, Image]) -> None:
    """Nobody there: 1, and one line of it."""
    image = built["dispatcher"]
    (port,) = free_ports(1)
    words = [image.here(word) for word in image.health]
    ran = subprocess.run(
        words,
        env={**inside(image, (port, port), {}), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("no answer: ")
    assert len(ran.stderr.splitlines()) == 1
    with pytest.raises(URLError):
        urlopen(f"http://127.0.0.1:{port}/healthz")


SHOP = """
from receiver import Receiver

receiver = Receiver()


@receiver.on("completed")
def finished(event):
    print(event.job_id, event.status, flush=True)
"""
# Linux's own switch (6.3 and later) for what MemoryDenyWriteExecute= of systemd forbids.
NO_WRITTEN_CODE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
