"""What a command brings in: `serve` starts without what only the others need."""

import subprocess
import sys

from dispatcher.cli import serve
from dispatcher.cli.root import ALONE, build


def _loaded(code: str) -> set[str]:
    """The modules that are there after some code, in a process of its own."""
    said = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(said.stdout.split())


def test_the_commands_that_need_no_client_are_those_of_serve() -> None:
    """Whoever adds one to that module names it."""
    names = {one.name for one in serve.app.registered_commands}
    assert names == ALONE
    assert not serve.app.registered_groups


def test_serve_starts_without_a_client() -> None:
    """No HTTP client, no checks of the doctor; schemas and PostgreSQL come with their first use."""
    loaded = _loaded(
        "import dispatcher.cli.root, dispatcher.server; dispatcher.cli.root.build('serve')"
    )
    for name in ("httpx", "dispatcher.client", "dispatcher.cli.doctor", "jsonschema_rs", "psycopg"):
        assert name not in loaded, name


def test_a_command_of_another_module_finds_all() -> None:
    """Also behind options, and where there is none."""
    for word in (None, "list", "--url", "nonsense"):
        assert len(build(word).registered_groups) > len(build("serve").registered_groups)
