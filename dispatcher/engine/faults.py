"""Our own faults, as far as they keep deliveries from going out: counted, told of, waited for."""

from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.outcome import INTERRUPTED, Outcome
from receiver.base import log
from receiver.base.lack import OwnLack, lack_of

_LOG: Final = log.get("dispatcher.engine")
_PAUSE_FIRST_MS: Final = 1_000
_PAUSE_MOST_MS: Final = 16_000
_TELL_EVERY_MS: Final = 10_000
INTERNAL: Final = "internal"
_ADVICE: Final = {
    "descriptors": "raise the limit of open files (systemd: LimitNOFILE), or lower "
    "DISPATCHER_SLOTS and DISPATCHER_CONNECTIONS_MAX",
    "ports": "widen net.ipv4.ip_local_port_range, or lower DISPATCHER_SLOTS",
    "network": "this machine has no way out: look at its network",
    "lookups": "name look-ups hang: look at the name servers, or raise DISPATCHER_DNS_LOOKUPS_MAX",
    "secrets": "signing secrets cannot be read: look at the database",
    "time": "leases end before their deliveries go out: the database or this process is too slow",
}


class Faults:
    """What we could not do. Each fault in a row makes the pause before the next try longer; any
    attempt that was made ends the row."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._in_a_row = 0
        self._told_ms: dict[str, int] = {}
        self._untold: dict[str, int] = {}

    def none(self) -> None:
        """Note that an attempt was made."""
        self._in_a_row = 0

    def pause_ms(self, outcome: Outcome, *, chance: float, monotonic_ms: int) -> int:
        """Count and tell what kept an attempt from being made; return how long to wait until it is
        made again, from once to twice the pause."""
        lack = outcome.lack or INTERNAL
        self._metrics.own_fault(lack)
        self._untold[lack] = self._untold.get(lack, 0) + 1
        told_ms = self._told_ms.get(lack)
        if told_ms is None or monotonic_ms - told_ms >= _TELL_EVERY_MS:
            self._told_ms[lack] = monotonic_ms
            _LOG.error(
                "we cannot deliver: the fault is ours",
                lack=lack,
                deliveries=self._untold.pop(lack),
                detail=outcome.detail,
                advice=_ADVICE.get(lack),
            )
        pause_ms = min(_PAUSE_MOST_MS, _PAUSE_FIRST_MS << min(self._in_a_row // 64, 8))
        self._in_a_row += 1
        return pause_ms + round(pause_ms * chance)


def interrupted(error: Exception, *, started_ms: int, ended_ms: int) -> Outcome:
    """Return what came of an attempt that we could not make."""
    lack = lack_of(error) or INTERNAL
    reason = str(error) if isinstance(error, OwnLack) else repr(error)
    return Outcome(
        kind="interrupted",
        started_ms=started_ms,
        duration_ms=max(0, ended_ms - started_ms),
        error=INTERRUPTED,
        detail=reason[:300],
        lack=lack,
    )
