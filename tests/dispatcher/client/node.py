"""Runs scripts in Node.js against the client in one file."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

CLIENT: Final = Path(__file__).parents[3] / "deploy" / "clients" / "postback.mjs"


def find() -> str:
    """Node.js, which is on every CI machine."""
    node = shutil.which("node")
    if node is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Node.js on this machine")
    assert node is not None, "there is no Node.js on this CI machine"
    return node


def run(script: str, **given: Any) -> str:
    """What a module prints. It has `given` as constants, and the client's names."""
    names = "PostbackClient, PostbackError, TensorOneClient, WaitTimeout"
    head = f"import {{ {names} }} from {json.dumps(CLIENT.as_uri())};\n"
    head += "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    return run_module(head + script)


def run_module(text: str) -> str:
    """What a module prints."""
    ran = subprocess.run(
        [find(), "--input-type=module", "-"],
        input=text.encode(),
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout.decode()


def values(script: str, **given: Any) -> Any:
    """What a script hands to `tell`."""
    head = "const told = [];\nconst tell = (...values) => told.push(...values);\n"
    return json.loads(run(f"{head}{script}\nconsole.log(JSON.stringify(told));", **given))
