"""What holds for every test."""

import asyncio
import atexit
import gc
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import freezegun
import hypothesis
import psycopg
import pytest

from tests import marks, order, ready_made

# Nobody asks how a worker's process ends: it writes down here what it leaves open.
_LEFT_OPEN = "POSTBACK_TEST_LEFT_OPEN"
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ


@atexit.register  # the first of all, so that it is called last
def nothing_is_left_open() -> None:
    """Fail a run that leaves a connection, a socket or an event loop open, at whose end Python
    would only complain, when the summary has long been written."""
    gc.collect()
    left = "".join(f"  {one!r}\n" for one in gc.get_objects() if _is_open(one))
    found = Path(os.environ[_LEFT_OPEN])
    if _IS_WORKER:
        with found.open("a") as file:
            file.write(left)
        return
    left += found.read_text()
    found.unlink()
    if left:
        print("left open:", left, sep="\n", end="", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)


if not _IS_WORKER:
    handle, os.environ[_LEFT_OPEN] = tempfile.mkstemp(prefix="postback-left-open-")
    os.close(handle)


def _is_open(one: object) -> bool:
    if isinstance(one, psycopg.Connection):
        return not one.closed
    if isinstance(one, asyncio.BaseEventLoop):
        return not one.is_closed()
    return isinstance(one, socket.socket) and one.fileno() != -1


# Freezing the clock is for wall-clock decisions. An event loop that serves in another thread must
# not see it: a timer that it sets meanwhile would never ring.
freezegun.configure(extend_ignore_list=["asyncio"])

# An example may take as long as a busy machine makes it. A failing one is printed whole, since
# nobody has the database of examples of another machine.
hypothesis.settings.register_profile(
    "postback",
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("postback")

# Hundreds of processes are started, and a quarter of each one's start would be compiling what the
# one before it compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# httpx looks for it at every request, and a search that finds nothing takes longer than a request.
if importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = cast(ModuleType, None)

ready_made.use()

# No test cuts the power: whether files are on a disk shows in nothing but the time to sync them.
_MEMORY = Path("/dev/shm")
_PREFIX = "postback-"  # and the number of the process
_ROOT = "PYTEST_DEBUG_TEMPROOT"  # where pytest makes the folders of tests
_FREE_BYTES_MIN = 2 * 1024**3  # ten times what a whole run leaves there
_TESTS = Path(__file__).parent
_OURS = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have `make weigh` ask for what it needs."""
    parser.addoption("--weigh", action="store_true", help="write down how long each file takes")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the files of tests in memory, where there is enough of it and nobody chose a place."""
    if config.getoption("markexpr") == "quick":
        sys.addaudithook(_no_process)
    chosen = _ROOT in os.environ or config.getoption("basetemp")
    if chosen or not os.access(_MEMORY, os.W_OK):
        return
    _forget_all_but_the_last()
    if shutil.disk_usage(_MEMORY).free >= _FREE_BYTES_MIN:
        root = _MEMORY / f"{_PREFIX}{os.getpid()}"  # short: the path of a socket has 107 bytes
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(0o700)
        config.stash[_OURS] = os.environ[_ROOT] = str(root)


def _forget_all_but_the_last() -> None:
    """Remove what runs that failed, or were killed, have left in memory, but for the last three."""
    with suppress(OSError):  # another run begins at the same time, or it is somebody else's
        left = [one for one in _MEMORY.glob(f"{_PREFIX}[0-9]*") if not _runs(one.name)]
        for old in sorted(left, key=lambda one: one.stat().st_mtime)[:-3]:
            shutil.rmtree(old, ignore_errors=True)


def _runs(name: str) -> bool:
    return Path(f"/proc/{name.removeprefix(_PREFIX)}").exists()


def _no_process(event: str, arguments: tuple[Any, ...]) -> None:
    """Hold what `quick` says of its tests: none needs a process of its own."""
    if event in ("subprocess.Popen", "os.fork") and "PYTEST_CURRENT_TEST" in os.environ:
        raise RuntimeError(f"not for a quick test (see _NOT_QUICK): {event} {arguments[:1]}")


# Tests, of files that are quick otherwise, which start a process.
_NOT_QUICK_TESTS = frozenset(
    f"tests/{node}"
    for node in (
        "dispatcher/api/test_endpoint_secrets.py::test_an_upstream_verifies_a_call_with_the_receivers_command",
        "dispatcher/client/test_documents.py::test_the_example_in_javascript_runs",
        "dispatcher/client/test_generated.py::test_the_committed_clients_are_what_those_for_asyncio_make",
        "dispatcher/dialects/test_cerebrium.py::test_a_process_that_is_told_to_stop_lets_nobody_wait",
        "dispatcher/dialects/test_cerebrium.py::test_a_secret_is_kept_sealed_or_not_at_all",
        "dispatcher/dialects/test_cerebrium.py::test_it_answers_by_whatever_host_it_is_called",
        "dispatcher/dialects/test_cerebrium.py::test_the_documents_curls_run",
        "dispatcher/dialects/test_runpod.py::test_without_keys_a_bucket_is_refused",
        "dispatcher/dialects/test_tensorone.py::test_the_samples_of_the_document_run",
        "dispatcher/test_links.py::test_a_start_says_which_endpoints_need_another",
        "dispatcher/test_links.py::test_an_address_that_is_everybodys_is_none_in_links",
        "dispatcher/test_wire.py::test_it_needs_neither_a_server_nor_a_database",
        "receiver/test_sealing.py::test_without_a_key_the_library_is_not_loaded",
        "receiver/test_signature.py::test_the_file_works_alone_copied_elsewhere",
    )
)
# What starts processes or servers, waits, or takes its time: everything else is `quick`.
_NOT_QUICK = tuple(
    _TESTS / path
    for path in (
        "base/test_server.py",
        "bench",
        "defects",
        "deploy",
        "dispatcher/api/test_fuzz.py",
        "dispatcher/api/test_wire.py",
        "dispatcher/cli",
        "dispatcher/client/test_node.py",
        "dispatcher/client/test_retries.py",
        "dispatcher/client/test_tensorone.py",
        "dispatcher/crash",
        "dispatcher/dialects/test_hidden.py",
        "dispatcher/engine/test_own_faults.py",
        "dispatcher/postgres",
        "dispatcher/sending/test_lasting.py",
        "dispatcher/sending/test_upstream_hostile.py",
        "dispatcher/store/jobs/test_exactness.py",
        "dispatcher/store/test_exactness.py",
        "dispatcher/store/test_sqlite_cost.py",
        "dispatcher/store/test_turned_away.py",
        "dispatcher/test_authorities.py",
        "dispatcher/test_demo.py",
        "dispatcher/test_key_rotation.py",
        "dispatcher/test_key_thief.py",
        "dispatcher/test_resolver.py",
        "dispatcher/test_secret_rotation.py",
        "dispatcher/test_sender.py",
        "dispatcher/test_sender_hostile.py",
        "dispatcher/test_theft.py",
        "readme",
        "receiver/crash",
        "receiver/inbox/test_replicas.py",
        "receiver/test_cli.py",
        "receiver/test_conformance.py",
        "receiver/test_deploy.py",
        "receiver/test_dispatcher_gone.py",
        "receiver/test_effects_postgres.py",
        "receiver/test_fastapi_shop.py",
        "receiver/test_fuzz.py",
        "receiver/test_lack.py",
        "receiver/test_leases.py",
        "receiver/test_node.py",
        "receiver/test_once.py",
        "receiver/test_order.py",
        "receiver/test_rotation.py",
        "receiver/test_serve.py",
        "receiver/test_server.py",
        "receiver/test_thief.py",
        "sdk",
        "test_completion.py",
        "test_core_files.py",
        "test_variables.py",
        "upgrade",
    )
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing that `make quick` does not run."""
    if config.getoption("markexpr") == "quick" and _is_apart(collection_path):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make quick` runs; where several processes run the tests, the longest go first."""
    if _IS_WORKER:
        order.longest_first(items)
    for item in items:
        names = [item.name, *getattr(item, "fixturenames", ())]
        if spec := getattr(item, "callspec", None):
            names += [one[0] for one in spec.params.values() if isinstance(one, tuple) and one]
        slow = any("postgres" in str(one) for one in names) or item.get_closest_marker("slow")
        if not (slow or _is_apart(item.path) or item.nodeid.partition("[")[0] in _NOT_QUICK_TESTS):
            item.add_marker("quick")


@cache
def _is_apart(path: Path) -> bool:
    return any(path.is_relative_to(one) for one in _NOT_QUICK)


def _guard() -> Iterator[None]:
    """Fail what leaves a mark on its process, and wipe it away: what runs after it must not depend
    on that."""
    before = marks.look()
    yield
    if left := marks.put_back(before):
        pytest.fail("left in its process: " + "; ".join(left), pytrace=False)


_files_leave_no_mark = pytest.fixture(_guard, autouse=True, scope="module")
_tests_leave_no_mark = pytest.fixture(_guard, autouse=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Give the memory back, unless somebody will want to see why a test failed."""
    root = session.config.stash.get(_OURS, None)
    if root is not None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        shutil.rmtree(root, ignore_errors=True)


_STORES: Final = ("postgres", "sqlite")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say on which stores the conformance suite ran: a skipped one must not go unseen."""
    if terminalreporter.config.getoption("weigh", False):
        every = [one for found in terminalreporter.stats.values() for one in found]
        order.write_down(one for one in every if isinstance(one, pytest.TestReport))
    for name in _STORES:
        ran = [
            f"{len(found)} {outcome}"
            for outcome in ("passed", "failed", "skipped")
            if (found := [one for one in terminalreporter.getreports(outcome) if _of(one, name)])
        ]
        if ran:
            terminalreporter.write_line(f"conformance suite on {name}: {', '.join(ran)}")


def _of(report: pytest.TestReport, store: str) -> bool:
    node = report.nodeid
    return "dispatcher/store/" in node and (f"[{store}]" in node or f"[{store}-" in node)
