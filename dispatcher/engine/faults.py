"""Our own faults, as far as they keep deliveries from going out: counted, told of, waited for."""

from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.outcome import INTERRUPTED, Outcome
from dispatcher.signing import STORED_SECRETS, SecretMissing
from receiver.base import log
from receiver.base.lack import Lacks, OwnLack, lack_of

INTERNAL: Final = "internal"
_ADVICE: Final = {
    "descriptors": "raise the limit of open files (systemd: LimitNOFILE), or lower "
    "DISPATCHER_SLOTS and DISPATCHER_CONNECTIONS_MAX",
    "ports": "widen net.ipv4.ip_local_port_range, or lower DISPATCHER_SLOTS",
    "network": "this machine has no way out: look at its network",
    "lookups": "name look-ups hang: look at the name servers, or raise DISPATCHER_DNS_LOOKUPS_MAX",
    "proxy": "the egress proxy does not take our connections: look at DISPATCHER_PROXY_URL",
    "keys": "stored values are sealed with a key that is not here: put it into "
    "DISPATCHER_ENCRYPTION_KEYS",
    "damage": "stored values do not open: they were damaged, or moved by hand; see `detail`",
    "secrets": "signing secrets cannot be read: look at the database",
    STORED_SECRETS: "store the secret that the header names (dispatcher secrets store), or change "
    "the header; where it cannot be opened, look at DISPATCHER_ENCRYPTION_KEYS",
    "upstream_values": "a variable or file that an endpoint's header names cannot be read: see "
    "`detail`",
    "time": "leases end before their deliveries go out: the database or this process is too slow",
}
_DETAIL_CHARS_MAX: Final = 300
# What is lacking for every delivery, and not for those of one destination or tenant alone.
_FOR_ALL: Final = frozenset({"descriptors", "memory", "threads", "network", "proxy"})
_SEALED: Final = frozenset({"keys", "damage"})
_SEALED_PAUSE_MS: Final = 60_000  # nothing changes before somebody does something
_SEALED_MS: Final = 150_000  # how long one of them says that keys are missing: tried again by then
_PROBES: Final = 4  # deliveries that go out to see whether others can
_PROBE_EVERY_MS: Final = 1_000
_STORED_SECRET_PAUSE_MS_MAX: Final = 300_000  # as long as a circuit stays open


class Faults:
    """What we could not do. Each fault in a row makes the pause before the next try longer; any
    attempt that was made ends the row. Where nobody's delivery can go out, few are tried. `event`
    is what is told of it."""

    def __init__(
        self, metrics: Metrics, event: str = "we cannot deliver: the fault is ours"
    ) -> None:
        self._metrics = metrics
        self._lacks = Lacks(log.get("dispatcher.engine"), event, _ADVICE)
        self._until_ms = 0
        self._missing_key: tuple[str, int] | None = None

    def missing_key(self, monotonic_ms: int) -> str | None:
        """Return what could not be opened lately for want of a key, None where nothing was."""
        if self._missing_key is None or monotonic_ms - self._missing_key[1] > _SEALED_MS:
            return None
        return self._missing_key[0]

    @property
    def until_ms(self) -> int:
        """Until when, by the monotonic clock, nothing more is taken on; 0 where all is well."""
        return self._until_ms

    def probes(self, monotonic_ms: int) -> int | None:
        """Return how many deliveries to take on now, to see whether they can be made; None where
        there is no reason to doubt."""
        if not self._until_ms:
            return None
        self._until_ms = max(self._until_ms, monotonic_ms + _PROBE_EVERY_MS)
        return _PROBES

    def none(self) -> None:
        """Note that an attempt was made."""
        self._until_ms = 0
        self._lacks.end()

    def pause_ms(
        self, lack: str | None, detail: str | None, *, chance: float, monotonic_ms: int
    ) -> int:
        """Count and tell what kept an attempt from being made; return how long to wait until it is
        made again, from once to twice the pause."""
        lack = lack or INTERNAL
        self._metrics.own_fault(lack)
        pause_ms = self._lacks.pause_ms(lack, detail, chance=chance, monotonic_ms=monotonic_ms)
        if lack in _FOR_ALL:
            self._until_ms = monotonic_ms + pause_ms
        if lack in _SEALED:
            pause_ms = _SEALED_PAUSE_MS + round(_SEALED_PAUSE_MS * chance)
        if lack == "keys":
            self._missing_key = detail or "", monotonic_ms
        return pause_ms


def stored_secret_pause_ms(attempt: int, chance: float) -> int:
    """Return how long a delivery waits whose header cannot be made: longer each time, to five
    minutes, from once to twice."""
    pause_ms = min(_STORED_SECRET_PAUSE_MS_MAX, 1_000 << min(attempt - 1, 16))
    return round(pause_ms * (1 + chance))


def interrupted(error: Exception, *, started_ms: int, ended_ms: int) -> Outcome:
    """Return what came of an attempt that we could not make."""
    reason = str(error) if isinstance(error, OwnLack) else repr(error)
    shown = INTERRUPTED
    if isinstance(error, SecretMissing):
        shown, reason = str(error), error.detail
    return Outcome(
        kind="interrupted",
        started_ms=started_ms,
        duration_ms=max(0, ended_ms - started_ms),
        error=shown,
        detail=reason[:_DETAIL_CHARS_MAX],
        lack=lack_of(error) or INTERNAL,
    )
