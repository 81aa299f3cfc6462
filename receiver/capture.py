"""Reading what was captured of a request, and writing a signed one, as text."""

import json
import shlex
from typing import Final

HEADERS_BYTES_MAX: Final = 1024 * 1024  # of a headers file; a request carries some kilobytes


class CaptureError(Exception):
    """The text is no list of headers."""


def read_headers(text: str) -> list[tuple[str, str]]:
    """Headers from `Name: value` lines (a request line before them is skipped), or from JSON."""
    if text.lstrip().startswith("{"):
        return _from_json(text)
    pairs = []
    for n, line in enumerate(text.splitlines(), start=1):
        name, colon, value = line.partition(":")
        if not line.strip() or (n == 1 and " HTTP/" in line):
            continue
        if not colon or not name.strip() or " " in name.strip():
            raise CaptureError(f"line {n} of the headers is not `Name: value`")
        pairs.append((name.strip(), value.strip()))
    return pairs


def as_lines(headers: dict[str, str]) -> str:
    """One `Name: value` a line."""
    return "\n".join(f"{name}: {value}" for name, value in headers.items())


def as_curl(headers: dict[str, str], body: bytes, file: str | None, url: str) -> str:
    """Return a command to paste. The body comes from its file, or stands in the command as text.

    ValueError: the body came without a file, and is not text.
    """
    data = f"@{file}" if file else body.decode("utf-8")
    if "\0" in data or (not file and data.startswith("@")):
        raise ValueError("the body cannot stand in a command")
    parts = ["curl", "-sS", "-X", "POST", url]
    for name, value in headers.items():
        parts += ["-H", f"{name}: {value}"]
    return shlex.join([*parts, "--data-binary", data])


def _from_json(text: str) -> list[tuple[str, str]]:
    try:
        document = json.loads(text)
        pairs = [
            (name, value)
            for name, values in document.items()
            for value in (values if isinstance(values, list) else [values])
        ]
    except (ValueError, RecursionError):
        raise CaptureError("the headers are not a JSON object") from None
    if not all(isinstance(value, str) for _, value in pairs):
        raise CaptureError("a header's value must be a string, or a list of strings")
    return pairs
