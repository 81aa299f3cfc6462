"""Settings from environment variables, which are read here alone: a dataclass declares each with
its default, bounds and reason; what is read is bounded, and each fault is told in one line that
names the variable and what it takes. A secret's value is in no message and no repr.

Any variable `X` may be given by `X_FILE`, the path of a file that holds its value: so systemd,
Kubernetes and Docker hand secrets over. Nothing that stands in such a file is in a message.

A field's type says how it is read: numbers within their bounds, `tuple[str, ...]` at commas and
line ends, `tuple[Network, ...]` as CIDRs in the same way, a Literal as one of its words, everything
else as text.
"""

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar, get_args, get_origin

from receiver.base.log import redact
from receiver.base.words import nearest

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Environ: TypeAlias = Mapping[str, str]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
HOUR_S: Final = 3_600.0
DAY_S: Final = 24 * HOUR_S

FILE: Final = "_FILE"  # behind a variable's name: the one that names a file with its value
FILE_BYTES_MAX: Final = 64 * KIB  # half of what the system lets a variable itself be long

_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
# A FIFO is opened at once, and refused, whether or not somebody writes to it.
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://\S+")

_Settings = TypeVar("_Settings")


class SettingError(Exception):
    """A setting that cannot be used: its message names the variable and what it takes. `missing` is
    the variable that must be set, and is not."""

    missing: str | None = None

    @classmethod
    def of_missing(cls, name: str, why: str) -> Self:
        """Return the error of a variable that is not set."""
        error = cls(f"{name} is not set: {why}")
        error.missing = name
        return error


def setting(
    default: Any,
    about: str,
    *,
    unit: str = "",
    min: float = 0,
    max: float = 1e15,
    secret: bool = False,
    split: Callable[[str], tuple[str, ...]] | None = None,
) -> Any:
    """Return a field with what its variable takes and why. `split` is how a list is split, where
    not at commas and line ends; it raises ValueError."""
    metadata = {"about": about, "unit": unit, "min": min, "max": max, "secret": secret}
    metadata["split"] = split or split_list
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a variable is set to (nothing: it is not), and the file that this stands in."""

    text: str = field(default="", repr=False)
    path: str | None = None

    @property
    def shown(self) -> str:
        """How a message shows it."""
        return repr(self.text) if self.path is None else f"what {self.path} holds"


def load(
    kind: type[_Settings], prefix: str, environ: Environ | None = None, *, secrets: bool = True
) -> _Settings:
    """Return the settings of this dataclass that the environment (the process's, unless given)
    asks for; an empty variable is as good as none. Without `secrets` those keep their defaults,
    unread: they may be for another user's eyes. Raises SettingError."""
    values: dict[str, Any] = {}
    from_files: list[_Given] = []
    for one in fields(kind):  # type: ignore[arg-type]  # a TypeVar cannot say "dataclass"
        if one.metadata["secret"] and not secrets:
            continue
        name = f"{prefix}{one.name.upper()}"
        given = _given(name, environ, lines=get_origin(one.type) is tuple)
        if given.text:
            values[one.name] = _value(name, one, given)
        if given.path is not None:
            from_files.append(given)
    try:
        return kind(**values)
    except SettingError as error:
        message = str(error)
    for given in from_files:
        message = message.replace(repr(given.text), given.shown)
    raise SettingError(message)


def read(name: str, environ: Environ | None = None, *, lines: bool = False) -> str:
    """Return what a variable is set to, be it in the file that its `_FILE` names; nothing where it
    is not. It is one line, unless `lines` allows several. Raises SettingError."""
    return _given(name, environ, lines=lines).text


def read_file(name: str, path: str, *, bytes_max: int = FILE_BYTES_MAX) -> str:
    """Return the text of the file that the variable `name` names. Raises SettingError, which names
    both and says nothing of what is in it."""
    shown = _shown(path)
    try:
        text = _read_regular(path, bytes_max).decode("utf-8")
    except OSError as error:
        raise SettingError(f"{name}: cannot read {shown}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingError(f"{name}: {shown} is not text in UTF-8") from None
    except ValueError as error:
        raise SettingError(f"{name}: {shown} {error}") from None
    if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}") or "\0" in text:
        raise SettingError(f"{name}: {shown} has a byte order mark or a NUL in it")
    return text


def environment(environ: Environ | None = None) -> Environ:
    """Return the process's environment, unless one is given."""
    return os.environ if environ is None else environ


def variables(prefix: str, *kinds: type[Any]) -> frozenset[str]:
    """Return every variable that the fields of these dataclasses are read from."""
    names = {f"{prefix}{one.name.upper()}" for kind in kinds for one in fields(kind)}
    return frozenset(names | {f"{name}{FILE}" for name in names})


def check_bounds(settings: Any, prefix: str) -> None:
    """Raise SettingError where a number, which code may have set, is none that its variable would
    take."""
    for one in fields(settings):
        if one.type is int or one.type is float:
            _check_number(f"{prefix}{one.name.upper()}", one, getattr(settings, one.name))


def check_choices(settings: Any, prefix: str) -> None:
    """Raise SettingError where a field of a Literal type holds none of its words."""
    for one in fields(settings):
        value = getattr(settings, one.name)
        if get_origin(one.type) is Literal and value not in get_args(one.type):
            *words, last = get_args(one.type)
            choices = f"{', '.join(words)} or {last}"
            hint = nearest(value, get_args(one.type))
            name = f"{prefix}{one.name.upper()}"
            raise SettingError(f"{name} must be {choices}, not {value!r}{hint}")


def service_url(prefix: str, environ: Environ | None, listens: Callable[[], Any]) -> str:
    """Return where the commands find the running service: at the prefix's `URL`, else where the
    settings that `listens` loads say that it listens (`host`, `port`), on this machine."""
    url = read(f"{prefix}URL", environ)
    if not url:
        settings = listens()
        url = listening_url(settings.host, settings.port)
    return url.rstrip("/")


def listening_url(host: str, port: int) -> str:
    """Return the URL of who listens there, as this machine reaches it."""
    host = "127.0.0.1" if host in _EVERYWHERE else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def split_list(text: str) -> tuple[str, ...]:
    """Return what is separated by commas or line ends, without the empty ones."""
    return tuple(part.strip() for part in re.split(r"[,\r\n]", text) if part.strip())


def _given(name: str, environ: Environ | None, *, lines: bool) -> _Given:
    environ = environment(environ)
    text = environ.get(name, "").strip()
    path = environ.get(f"{name}{FILE}", "").strip()
    if not path:
        return _Given(text)
    if text:
        raise SettingError(f"{name} and {name}{FILE} are both set: leave one of them out")
    text = read_file(f"{name}{FILE}", path)
    text = text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    if not text.strip():
        raise SettingError(f"{name}{FILE}: {_shown(path)} is empty")
    if not lines and ("\n" in text or "\r" in text):
        raise SettingError(f"{name}{FILE}: {_shown(path)} has more than one line")
    return _Given(text, _shown(path))


def _read_regular(path: str, bytes_max: int) -> bytes:
    """Raise OSError, or ValueError with what is wrong with the file."""
    descriptor = os.open(path, _OPEN)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise ValueError(f"is {what}, not a file")
        data = b""
        while len(data) <= bytes_max and (more := os.read(descriptor, bytes_max + 1 - len(data))):
            data += more
    finally:
        os.close(descriptor)
    if len(data) > bytes_max:
        raise ValueError(f"is larger than {bytes_max:,} bytes")
    return data


def _shown(path: str) -> str:
    """Return a path as it may stand in a message: somebody may have put the secret in its place."""
    return redact(path if path.isprintable() else ascii(path))


def _value(name: str, one: Field[Any], given: _Given) -> Any:
    if one.type is int or one.type is float:
        return _number(name, one, given)
    if one.type == tuple[str, ...]:
        return _split(name, one, given.text)
    return _networks(name, given) if one.type == tuple[Network, ...] else given.text


def _split(name: str, one: Field[Any], text: str) -> tuple[str, ...]:
    try:
        parts: tuple[str, ...] = one.metadata["split"](text)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None
    return parts


def _number(name: str, one: Field[Any], given: _Given) -> float:
    kind: Any = one.type
    try:
        number: float = kind(given.text)
    except ValueError:
        whole = "a whole number" if kind is int else "a number"
        message = f"{name} must be {whole}, not {given.shown}{_injected(name, given.text)}"
        raise SettingError(message) from None
    _check_number(name, one, number, given.text if given.path is None else given.shown)
    return number


def _injected(name: str, text: str) -> str:
    """Return what else there is to say of a port that nobody here has set."""
    if not name.endswith("_PORT") or not _SERVICE_LINK.fullmatch(text):
        return ""
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    return (
        f": Kubernetes sets it so in every pod beside a Service named {service}; put "
        f"`enableServiceLinks: false` into this pod's spec, or set {name} there"
    )


def _check_number(name: str, one: Field[Any], value: object, shown: object = None) -> None:
    low, high = one.metadata["min"], one.metadata["max"]
    kinds = int if one.type is int else int | float
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise SettingError(f"{name} must be a number, not {value!r}")
    if not low <= value <= high:
        raise SettingError(f"{name} must be from {low:g} to {high:g}, not {shown or repr(value)}")


def _networks(name: str, given: _Given) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part) for part in split_list(given.text))
    except ValueError as error:
        fault = error if given.path is None else f"{given.path} holds something else"
        raise SettingError(f"{name} takes CIDRs such as 10.0.0.0/8: {fault}") from None
