"""kill -9 between every pair of steps: with `tx` one effect, without it at least one."""

import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from tests.receiver.crash.customer import POINTS

ROOT = Path(__file__).parents[3]
ENDS_WITHIN_S = 30


def customer(folder: Path, point: str, kind: str) -> int:
    command = [sys.executable, "-m", "tests.receiver.crash.customer", str(folder), point, kind]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, timeout=ENDS_WITHIN_S, text=True, check=False
    )
    assert ran.returncode in (0, -signal.SIGKILL), ran.stderr
    return ran.returncode


def effects_after_kill(folder: Path, point: str, kind: str) -> int:
    """How often the effect is in the customer's table once all is over."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "shop.db")) as db:
        db.execute("CREATE TABLE effects (job TEXT)")
    (folder / "armed").touch()
    assert customer(folder, point, kind) == -signal.SIGKILL, f"not killed {point}"
    assert customer(folder, point, kind) == 0
    with closing(sqlite3.connect(folder / "shop.db")) as db:
        (effects,) = db.execute("SELECT count(*) FROM effects").fetchone()
    with closing(sqlite3.connect(folder / "inbox.db")) as db:
        states = db.execute("SELECT state FROM messages").fetchall()
    assert states == [("handled",)]
    return int(effects)


def test_kill_9_between_every_pair_of_steps(tmp_path: Path) -> None:
    """The table of what came of it is printed (`pytest -s`)."""
    cases = [(point, kind) for point in POINTS for kind in ("tx", "plain")]

    def run(n: int) -> int:
        return effects_after_kill(tmp_path / str(n), *cases[n])

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(cases, pool.map(run, range(len(cases))), strict=True))
    print(f"\n{'killed':42} {'with tx':>8} {'without':>8}")
    for point in POINTS:
        print(f"{point:42} {found[point, 'tx']:>8} {found[point, 'plain']:>8}")
    assert {effects for (_, kind), effects in found.items() if kind == "tx"} == {1}
    assert {effects for (_, kind), effects in found.items() if kind == "plain"} == {1, 2}
