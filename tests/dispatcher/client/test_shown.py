"""What `help()`, an editor and a type checker learn of the client."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.client import AsyncClient, Client, Job, Submission, Submitted

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_method_shows_what_it_takes_and_what_comes_of_it(client: type) -> None:
    """Not the call that it makes: `self`, its parameters, and the result."""
    for name, result in (("submit", Submitted), ("get_job", Job)):
        shown = inspect.signature(getattr(client, name))
        assert next(iter(shown.parameters)) == "self"
        assert shown.return_annotation is result
    submit = inspect.signature(client.submit)  # type: ignore[attr-defined]
    assert list(submit.parameters)[1:4] == ["job_id", "payload", "callback_url"]


def test_one_of_many_is_written_as_one_alone_is() -> None:
    """`Submission` takes by their places what `submit` does, and only that."""
    assert Submission("job_1", {"a": 1}) == Submission(job_id="job_1", payload={"a": 1})
    places = [inspect.signature(one) for one in (Submission, Client.submit)]
    taken = [
        [name for name, it in one.parameters.items() if it.kind is it.POSITIONAL_OR_KEYWORD]
        for one in places
    ]
    assert taken[0] == taken[1][1:] == ["job_id", "payload"]


def test_an_editable_install_is_found_by_what_only_reads_paths(tmp_path: Path) -> None:
    """As type checkers do: the folder is named in a file of site-packages, not found by a hook
    that runs. `py.typed` says that there are types."""
    ran = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.path, sep='\\n')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) in ran.stdout.splitlines()
    for package in ("dispatcher", "receiver"):
        assert (ROOT / package / "py.typed").is_file()
