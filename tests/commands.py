"""Commands of both halves, run in the process of the tests: starting one of its own takes a hundred
times as long as most of them run."""

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from typing import Final, NamedTuple

from dispatcher.cli import main as dispatcher
from receiver.cli.root import run as receiver
from tests import marks

_MAINS: Final = {"dispatcher": dispatcher, "receiver": receiver}


class Ran(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def command(half: str, *words: str, **environ: str) -> Ran:
    """Run one, for which the environment has these variables as well; this process is as before
    afterwards."""
    before = marks.look()
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    os.environ.update(environ)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = _MAINS[half](words)
    finally:
        marks.put_back(before)
    return Ran(code, *(one.buffer.getvalue().decode() for one in (out, err)))
