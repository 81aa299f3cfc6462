"""settings.py: a field's type says how its variable is read."""

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from receiver.base.settings import (
    FILE_BYTES_MAX,
    Network,
    SettingError,
    check_choices,
    load,
    setting,
)


@dataclass(frozen=True, kw_only=True)
class Example:
    count: int = setting(1, "how many", min=1, max=9)
    wait: float = setting(0.5, "how long", unit="s", max=10)
    keys: tuple[str, ...] = setting((), "which", secret=True)
    allow: tuple[Network, ...] = setting((), "where to")
    mode: Literal["fast", "safe", "both"] = setting("fast", "how")
    name: str | None = setting(None, "what")

    def __post_init__(self) -> None:
        check_choices(self, "EXAMPLE_")


def test_each_type_is_read_in_its_way() -> None:
    """And what is not set, or empty, has its default."""
    assert load(Example, "EXAMPLE_", {"EXAMPLE_COUNT": " ", "COUNT": "7"}) == Example()
    environ = {
        "EXAMPLE_COUNT": " 7 ",
        "EXAMPLE_WAIT": "1e1",
        "EXAMPLE_KEYS": "a, b\nc,",
        "EXAMPLE_ALLOW": "10.0.0.0/8, ::1/128",
        "EXAMPLE_MODE": "both",
        "EXAMPLE_NAME": "a, b",
    }
    assert load(Example, "EXAMPLE_", environ) == Example(
        count=7,
        wait=10.0,
        keys=("a", "b", "c"),
        allow=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")),
        mode="both",
        name="a, b",
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("COUNT", "x", "EXAMPLE_COUNT must be a whole number, not 'x'"),
        ("COUNT", "10", "EXAMPLE_COUNT must be from 1 to 9, not 10"),
        ("WAIT", "x", "EXAMPLE_WAIT must be a number, not 'x'"),
        ("WAIT", "nan", "EXAMPLE_WAIT must be from 0 to 10, not nan"),
        ("ALLOW", "10.0.0.1/8", "EXAMPLE_ALLOW takes CIDRs such as 10.0.0.0/8: "),
        ("MODE", "slow", "EXAMPLE_MODE must be fast, safe or both, not 'slow'"),
    ],
)
def test_a_fault_names_the_variable_and_what_it_takes(name: str, text: str, message: str) -> None:
    """In one line."""
    with pytest.raises(SettingError) as caught:
        load(Example, "EXAMPLE_", {f"EXAMPLE_{name}": text})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    """I8."""
    assert "hidden" not in repr(load(Example, "EXAMPLE_", {"EXAMPLE_KEYS": "hidden"}))


# --- values in files ---


def given(file: Path, name: str = "NAME") -> Example:
    return load(Example, "EXAMPLE_", {f"EXAMPLE_{name}_FILE": str(file)})


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"a b", "a b"),
        (b"a b\n", "a b"),
        (b"a b\r\n", "a b"),
        (b" a b \n", " a b "),
        ("Jürgen\n".encode(), "Jürgen"),
    ],
)
def test_a_file_gives_its_content_but_for_one_trailing_newline(
    tmp_path: Path, content: bytes, name: str
) -> None:
    """LF or CRLF, as editors and `echo` leave it; spaces may be part of a secret."""
    file = tmp_path / "name"
    file.write_bytes(content)
    assert given(file).name == name


def test_each_type_is_read_from_a_file_as_from_a_variable(tmp_path: Path) -> None:
    """A list may have its items on lines of their own."""
    contents = {
        "COUNT": "7\n",
        "WAIT": "1e1\n",
        "KEYS": "a\nb, c\n\n",
        "ALLOW": "10.0.0.0/8\n::1/128\n",
        "MODE": "both\n",
    }
    environ = {}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        environ[f"EXAMPLE_{name}_FILE"] = str(tmp_path / name)
    assert load(Example, "EXAMPLE_", environ) == Example(
        count=7,
        wait=10.0,
        keys=("a", "b", "c"),
        allow=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")),
        mode="both",
    )


def test_an_empty_name_of_a_file_is_as_good_as_none() -> None:
    environ = {"EXAMPLE_NAME_FILE": " ", "EXAMPLE_NAME": "a", "EXAMPLE_COUNT_FILE": ""}
    assert load(Example, "EXAMPLE_", environ) == Example(name="a")


def test_a_variable_that_is_empty_leaves_room_for_its_file(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("a")
    environ = {"EXAMPLE_NAME": "", "EXAMPLE_NAME_FILE": f" {tmp_path / 'name'} "}
    assert load(Example, "EXAMPLE_", environ).name == "a"


def test_a_relative_path_is_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "name").write_text("a")
    monkeypatch.chdir(tmp_path)
    assert given(Path("name")).name == "a"


def test_links_are_followed_as_kubernetes_makes_them(tmp_path: Path) -> None:
    """A mounted secret is a link to a file in a folder that is a link itself, and is swapped."""
    (tmp_path / "..2026_01").mkdir()
    (tmp_path / "..2026_01" / "name").write_text("a")
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "name").symlink_to("..data/name")
    assert given(tmp_path / "name").name == "a"


def _nothing(_: Path) -> None:
    """There is no file."""


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _holding(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_nothing, "cannot read {path}: No such file or directory"),
        (Path.mkdir, "{path} is a directory, not a file"),
        (_fifo, "{path} is a pipe or a device, not a file"),
        (_socket, "cannot read {path}: No such device or address"),
        (lambda path: path.symlink_to("/dev/zero"), "{path} is a pipe or a device, not a file"),
        (lambda path: path.symlink_to(path), "cannot read {path}: Too many levels of symbolic"),
        (_holding(b"hidden\xff"), "{path} is not text in UTF-8"),
        (_holding("hidden".encode("utf-16")), "{path} is not text in UTF-8"),
        (_holding(b"\xef\xbb\xbfhidden"), "{path} has a byte order mark or a NUL in it"),
        (_holding(b"hidden\0"), "{path} has a byte order mark or a NUL in it"),
        (_holding(b"hidden" * 20_000), "{path} is larger than 65,536 bytes"),
        (_holding(b""), "{path} is empty"),
        (_holding(b" \n"), "{path} is empty"),
        (_holding(b"hidden\nhidden\n"), "{path} has more than one line"),
        (_holding(b"hidden\n\n"), "{path} has more than one line"),
        (_holding(b"hidden\r"), "{path} has more than one line"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    """The variable and the path, at once, and nothing of what is in it."""
    file = tmp_path / "name"
    make(file)
    with pytest.raises(SettingError) as caught:
        given(file)
    message = str(caught.value)
    assert message.startswith("EXAMPLE_NAME_FILE: " + why.format(path=file))
    assert "hidden" not in message
    assert "\n" not in message
    assert caught.value.__cause__ is None


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("a" * FILE_BYTES_MAX)
    assert given(tmp_path / "name").name == "a" * FILE_BYTES_MAX


def test_a_file_that_is_not_ours_to_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, who may read all: the system's refusal is played."""

    def refused(path: str, *_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(SettingError, match=r"^EXAMPLE_NAME_FILE: cannot read .*Permission denied$"):
        given(tmp_path / "name")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("COUNT", "hidden", "EXAMPLE_COUNT must be a whole number, not what {path} holds"),
        ("COUNT", "10", "EXAMPLE_COUNT must be from 1 to 9, not what {path} holds"),
        ("COUNT", "tcp://hidden:1", "EXAMPLE_COUNT must be a whole number, not what {path} holds"),
        ("WAIT", "hidden", "EXAMPLE_WAIT must be a number, not what {path} holds"),
        ("ALLOW", "hidden", "EXAMPLE_ALLOW takes CIDRs such as 10.0.0.0/8: {path} holds something"),
        ("MODE", "hidden", "EXAMPLE_MODE must be fast, safe or both, not what {path} holds"),
    ],
)
def test_a_value_of_a_file_that_cannot_be_is_not_shown(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    """The wrong file may have been named, and hold a secret."""
    file = tmp_path / "x"
    file.write_text(f"{content}\n")
    with pytest.raises(SettingError) as caught:
        given(file, name)
    assert str(caught.value).startswith(message.format(path=file))
    assert "hidden" not in str(caught.value)


def test_a_secret_in_place_of_a_path_is_not_shown_either() -> None:
    for path in ("whsec_hidden1hidden1hidden1", "pbk_hidden1hidden1"):
        with pytest.raises(SettingError) as caught:
            given(Path(path))
        assert "hidden1" not in str(caught.value)
        assert "EXAMPLE_NAME_FILE" in str(caught.value)


def test_a_path_cannot_make_a_second_line() -> None:
    with pytest.raises(SettingError) as caught:
        given(Path("/no\nerror: nothing"))
    assert "\n" not in str(caught.value)


def test_secrets_can_be_left_unread(tmp_path: Path) -> None:
    """A command that asks a running service needs none of its secrets, and may not see them."""
    environ = {"EXAMPLE_KEYS_FILE": str(tmp_path / "none"), "EXAMPLE_COUNT": "7"}
    assert load(Example, "EXAMPLE_", environ, secrets=False) == Example(count=7)


# --- what Kubernetes puts there ---


def test_a_port_that_is_a_service_link_is_told_with_its_cure() -> None:
    """A Service of the half's name makes one in each pod beside it."""
    with pytest.raises(SettingError) as caught:
        load(Linked, "EXAMPLE_", {"EXAMPLE_PORT": "tcp://10.0.0.1:8600"})
    assert str(caught.value) == (
        "EXAMPLE_PORT must be a whole number, not 'tcp://10.0.0.1:8600': Kubernetes sets it so in "
        "every pod beside a Service named example; put `enableServiceLinks: false` into this pod's "
        "spec, or set EXAMPLE_PORT there"
    )


@dataclass(frozen=True, kw_only=True)
class Linked:
    port: int = setting(1, "where")
