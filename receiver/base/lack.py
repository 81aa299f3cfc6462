"""What this machine has run out of (D21): which errors say so, whatever raised them, and how many
files may be open. Our own lack is nobody's fault but ours, and is booked as such."""

import errno
import ipaddress
import resource
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from receiver.base import log

_LOG: Final = log.get("receiver.base")
_PAUSE_FIRST_MS: Final = 1_000
_PAUSE_MOST_MS: Final = 16_000
_LONGER_EVERY: Final = 64  # in a row: so many may well go out in the same moment
_TELL_EVERY_MS: Final = 10_000
# No packet goes to these (root servers): connecting a datagram socket only looks for a route.
_PROBES: Final = (
    (socket.AF_INET, "198.41.0.4"),
    (socket.AF_INET6, "2001:503:ba3e::2:30"),
)
_ERRORS: Final = {
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
    errno.ENOBUFS: "memory",
    errno.ENOMEM: "memory",
}
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
_NO_ADDRESS: Final = errno.EADDRNOTAVAIL
_NO_THREAD: Final = "can't start new thread"  # Python's words; it has no type of its own
# macOS refuses more than this, and calls the limit unlimited.
_FILES_UNLIMITED: Final = 10_240
UNLIMITED: Final = 2**31


class OwnLack(OSError):
    """We could not, and nobody else is to blame: `what` names what was lacking, in one word."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(reason)
        self.what = what


def lack_of(error: BaseException) -> str | None:
    """Return what an error says that we lack, in one word; None where it does not: then it may be
    the peer's. It is looked for in what caused the error, too."""
    for cause in _causes(error):
        if isinstance(cause, OwnLack):
            return cause.what
        if isinstance(cause, MemoryError):
            return "memory"
        if isinstance(cause, OSError) and cause.errno in _ERRORS:
            return _ERRORS[cause.errno]
        if isinstance(cause, RuntimeError) and _NO_THREAD in str(cause):
            return "threads"
        if isinstance(cause, BaseExceptionGroup):
            lacks = [lack_of(one) for one in cause.exceptions]
            return lacks[0] if all(lacks) else None
    return None


def has_no_port(error: BaseException, host: str) -> bool:
    """Whether an error says that we have no port left to reach an address of this machine or
    another, where `host` is one that we could send to; of a name nothing is known."""
    if not any(isinstance(one, OSError) and one.errno == _NO_ADDRESS for one in _causes(error)):
        return False
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return False
    return is_routed(socket.AF_INET if address.version == 4 else socket.AF_INET6, str(address))


def has_no_route(error: BaseException) -> bool:
    """Whether an error says that there is no way to an address."""
    return any(isinstance(one, OSError) and one.errno in _NO_ROUTE for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def descriptors_left() -> bool:
    """Whether one more file could be opened now. For errors that do not say why, such as those of
    name look-ups."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno not in _ERRORS
    return True


def has_route() -> bool:
    """Whether this machine knows a way to the world."""
    return any(is_routed(family, address) for family, address in _PROBES)


def is_routed(family: int, address: str) -> bool:
    """Whether this machine knows a way to an address, and has one of its own to send from."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError as error:
        return error.errno in _ERRORS  # else we could not look
    return True


class Uplink:
    """Our own way out. A machine that never had one is not to be waited for: what cannot be
    reached from it is the caller's affair."""

    def __init__(self, has_route: Callable[[], bool] = has_route) -> None:
        self._has_route = has_route
        self._had = has_route()

    def is_down(self) -> bool:
        """Whether there was a way out before, and there is none now."""
        up = self._has_route()
        self._had = self._had or up
        return self._had and not up


class Lacks:
    """What we could not do, in a row: how long to wait before it is tried again, and what is said
    of it, an error now and then and not one for each."""

    def __init__(self, log: log.Log, event: str, advice: Mapping[str, str]) -> None:
        self._log = log
        self._event = event
        self._advice = advice
        self._in_a_row = 0
        self._told_ms: dict[str, int] = {}
        self._untold: Counter[str] = Counter()

    def end(self) -> None:
        """Note that something was done."""
        self._in_a_row = 0

    def pause_ms(self, what: str, detail: str | None, *, chance: float, monotonic_ms: int) -> int:
        """Tell of one more, and return how long to wait: once to twice the pause, by `chance`."""
        self._untold[what] += 1
        told_ms = self._told_ms.get(what)
        if told_ms is None or monotonic_ms - told_ms >= _TELL_EVERY_MS:
            self._told_ms[what] = monotonic_ms
            count = self._untold.pop(what)
            advice = self._advice.get(what)
            self._log.error(self._event, lack=what, count=count, detail=detail, advice=advice)
        pause_ms = min(_PAUSE_MOST_MS, _PAUSE_FIRST_MS << min(self._in_a_row // _LONGER_EVERY, 8))
        self._in_a_row += 1
        return pause_ms + round(pause_ms * chance)


# --- open files ---


def raise_files_limit() -> int:
    """Raise the soft limit of open files as far as the hard one lets us; returns what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _FILES_UNLIMITED):
        if soft != resource.RLIM_INFINITY and (wanted > soft or wanted == resource.RLIM_INFINITY):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                break
            except (OSError, ValueError):
                continue
    return files_limit()


def files_limit(*, hard: bool = False) -> int:
    """Return how many files this process may have open; with `hard`, how many it could."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[hard]
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What takes descriptors: a setting's name, how many it allows, how many descriptors each
    takes, and how few there must be."""

    setting: str
    count: int
    each: int = 1
    min: int = 4

    @property
    def files(self) -> int:
        """How many descriptors all of them take."""
        return self.count * self.each

    def within(self, files: int) -> int:
        """Return how many so many descriptors are enough for."""
        return max(min(self.min, self.count), min(self.count, files // self.each))


def fit(*needs: Need, files: int) -> tuple[int, ...]:
    """Return how many of each there may be, so that all have descriptors: equal parts of them are
    for each, and what one does not need is the others'."""
    fitting, left = [0] * len(needs), files
    order = sorted(range(len(needs)), key=lambda place: needs[place].files)
    for behind, place in zip(range(len(needs), 0, -1), order, strict=True):
        fitting[place] = needs[place].within(left // behind)
        left -= fitting[place] * needs[place].each
    return tuple(fitting)


def tell_of(needs: Iterable[tuple[Need, int]], *, limit: int) -> None:
    """Warn of each setting that the limit of open files does not let us keep."""
    for need, count in needs:
        if count < need.count:
            _LOG.warning(
                "the limit of open files is too low for a setting",
                setting=need.setting,
                configured=need.count,
                used=count,
                limit=limit,
                advice="raise the hard limit (ulimit -Hn; systemd: LimitNOFILE), or lower it",
            )
