"""Database URLs: which database one means, and what may be shown of it. Pure."""

import os.path
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

POSTGRES_SCHEMES: Final = ("postgresql", "postgres")
POSTGRES_TAKES: Final = (
    "postgresql://USER:PASSWORD@HOST:5432/DATABASE, with reserved characters as %XX (an @ as %40)"
)
_SQLITE: Final = "sqlite:///"
_PORT: Final = re.compile(r"\d{1,5}")
_PORT_MAX: Final = 65_535
_USUAL_PORT: Final = 5_432
_HERE: Final = "localhost"
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")


class DatabaseURLError(ValueError):
    """No URL of a database; the message says what one is (`takes`), and quotes nothing of it: a
    piece of it may be a password."""

    def __init__(self, takes: str) -> None:
        super().__init__(f"must be {takes}")
        self.takes = takes


def is_postgres(url: str) -> bool:
    """Whether a URL means PostgreSQL; the other kind is SQLite."""
    return url.partition("://")[0] in POSTGRES_SCHEMES and "://" in url


def check_url(url: str) -> None:
    """Raise DatabaseURLError for what is no URL of either kind."""
    if is_postgres(url):
        redacted(url)
    else:
        sqlite_path(url)


def sqlite_path(url: str) -> str:
    """Return the file of a `sqlite:///` URL (a fourth slash makes it absolute). Raises
    DatabaseURLError."""
    path = url.removeprefix(_SQLITE)
    if path == url or not path or path.startswith(":") or "?" in path or "\0" in path:
        raise DatabaseURLError(
            "sqlite:///FILE (sqlite:////FILE for an absolute path) "
            "or postgresql://USER:PASSWORD@HOST:5432/DATABASE"
        )
    return path


def whereabouts(url: str) -> str:
    """Return where a database is, fit to show: a file by its whole path, a server by its URL
    without secrets. Raises DatabaseURLError."""
    return redacted(url) if is_postgres(url) else os.path.abspath(sqlite_path(url))


def redacted(url: str) -> str:
    """Return a PostgreSQL URL without its password and its parameters. Raises DatabaseURLError."""
    head = url.partition("?")[0]  # what the parameters are is the driver's to know
    try:
        parts = urlsplit(head)
    except ValueError:  # what it says quotes the URL
        raise DatabaseURLError(POSTGRES_TAKES) from None
    user, at, hosts = parts.netloc.rpartition("@")
    # A reserved character in a password ends it too early: what follows would pass for a host.
    reserved = "@" in user or "@" in parts.path or "#" in head or _ESCAPE.search(url)
    if reserved or not head.isprintable() or " " in head or not _are_hosts(hosts):
        raise DatabaseURLError(POSTGRES_TAKES)
    name = f"{user.partition(':')[0]}@" if at else ""
    return f"postgresql://{name}{hosts}{parts.path}"


def addresses(url: str) -> tuple[tuple[str, int], ...]:
    """Return the hosts and ports that a PostgreSQL URL names, in the URL or in its parameters; one
    without a host means this machine. None of any other kind of database."""
    if not is_postgres(url):
        return ()
    parts = urlsplit(url)
    given = parse_qs(parts.query)
    ports = _listed(given, "port")
    found: list[tuple[str, int]] = []
    for place, host in enumerate(parts.netloc.rpartition("@")[2].split(",")):
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        found.append((name.strip("[]") if colon else host.strip("[]"), _port(port, ports, place)))
    for name in ("host", "hostaddr"):
        hosts = enumerate(_listed(given, name))
        found += [(host, _port("", ports, place)) for place, host in hosts]
    # A socket file and a missing host are this machine.
    local = [(_HERE if not host or host.startswith(("/", "@")) else host, to) for host, to in found]
    return tuple(dict.fromkeys(local))


def _listed(given: Mapping[str, list[str]], name: str) -> list[str]:
    return ",".join(given.get(name, ())).split(",") if name in given else []


def _port(port: str, ports: Sequence[str], place: int) -> int:
    """Return the port of the host at this place: its parameter's, else its own, else the usual."""
    text = ports[min(place, len(ports) - 1)] if ports else port
    return int(text) if text.isascii() and text.isdigit() else _USUAL_PORT


def _are_hosts(hosts: str) -> bool:
    """`host`, `host:port` or `[::1]:port`, or several with commas between; or none: then
    the parameters or the driver's own variables say where."""
    for host in hosts.split(","):
        name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if colon and not (_PORT.fullmatch(port) and int(port) <= _PORT_MAX):
            return False
        if ":" in name and not (name.startswith("[") and name.endswith("]")):
            return False
    return True
