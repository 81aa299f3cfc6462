"""Figures for Prometheus, in its text format. Written by hand: eight of them do not warrant another
package in every customer's application."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from receiver.base import log
from receiver.base.budget import Tally
from receiver.base.stalls import Stalls
from receiver.inbox.listing import Backlog

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters since the start. Their labels are words of ours, never what a peer sent."""

    def __init__(self) -> None:
        self._received: Counter[str] = Counter(
            {"accepted": 0, "duplicate": 0, "conflict": 0, "late": 0}
        )
        self._refused: Counter[str] = Counter()
        self._handlings: Counter[str] = Counter({"handled": 0, "failed": 0, "dead": 0})
        self._asked: Counter[str] = Counter({"ended": 0, "waiting": 0, "failed": 0, "lost": 0})
        self._own_faults: Counter[str] = Counter()
        self._unknown = 0
        self._hanging = 0
        self._unclaimed = 0
        self.connections = Tally()
        self.stalls = Stalls()

    def count_received(self, verdict: str) -> None:
        self._received[verdict] += 1

    def count_unknown(self) -> None:
        """Count a message whose status nobody knows."""
        self._unknown += 1

    def count_refused(self, reason: str) -> None:
        self._refused[reason] += 1

    def count_handling(self, outcome: str) -> None:
        self._handlings[outcome] += 1

    def count_own_fault(self, lack: str) -> None:
        """Count what we could not do for `lack` of something of ours."""
        self._own_faults[lack] += 1

    def count_asked(self, outcome: str) -> None:
        self._asked[outcome] += 1

    def count_unclaimed(self, count: int) -> None:
        self._unclaimed += count

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Count a handler that outlives its time, for as long as it does."""
        self._hanging += 1
        try:
            yield
        finally:
            self._hanging -= 1

    def exposition(self, backlog: Backlog, now_ms: int) -> str:
        """Return all figures, as Prometheus reads them."""
        oldest_s = 0.0 if backlog.oldest_ms is None else max(0, now_ms - backlog.oldest_ms) / 1000
        states = {"pending": backlog.pending, "running": backlog.running, "dead": backlog.dead}
        expected = {"expected": backlog.expected, "lost": backlog.lost}
        lines = [
            *_series("received_total", "counter", "Verified messages.", "verdict", self._received),
            *_series("refused_total", "counter", "Refused requests.", "reason", self._refused),
            *_series("attempts_total", "counter", "Handlings.", "outcome", self._handlings),
            *_series("asked_total", "counter", "Questions to status URLs.", "outcome", self._asked),
            *_series(
                "own_faults_total",
                "counter",
                "Handlings and questions that we could not make, by what we lacked.",
                "lack",
                self._own_faults,
            ),
            *_total("unclaimed_total", "Messages ignored: nobody handles them.", self._unclaimed),
            *_series("messages", "gauge", "Messages not done with.", "state", states),
            *_series("expected_jobs", "gauge", "Jobs waited for, or lost.", "state", expected),
            *_total("unknown_total", "Messages of an unknown status.", self._unknown),
            *_total(
                "connections_refused_total", "Surplus connections closed.", self.connections.refused
            ),
            *_total(
                "connections_cut_total",
                "Connections whose peer did not read.",
                self.connections.cut,
            ),
            *_total("log_lines_dropped_total", "Lines of the log that nobody read.", log.dropped()),
            *_single("hanging_handlers", "Handlers beyond their time.", self._hanging),
            *_total(
                "loop_stalls_total",
                "Times the event loop stood still for more than a second.",
                self.stalls.count,
            ),
            *_single(
                "longest_stall_seconds", "Its longest one since the start.", self.stalls.longest_s
            ),
            *_single(
                "unreadable_messages",
                "Messages that wait for a key that opens them.",
                backlog.unreadable,
            ),
            *_single("oldest_unhandled_seconds", "Age of the oldest unhandled message.", oldest_s),
        ]
        return "\n".join(lines) + "\n"


def _series(
    name: str, kind: str, about: str, label: str, values: Counter[str] | dict[str, int]
) -> list[str]:
    head = [f"# HELP receiver_{name} {about}", f"# TYPE receiver_{name} {kind}"]
    return head + [
        f'receiver_{name}{{{label}="{value}"}} {count}' for value, count in sorted(values.items())
    ]


def _single(name: str, about: str, value: float, kind: str = "gauge") -> list[str]:
    return [
        f"# HELP receiver_{name} {about}",
        f"# TYPE receiver_{name} {kind}",
        f"receiver_{name} {value:g}",
    ]


def _total(name: str, about: str, value: int) -> list[str]:
    return _single(name, about, value, "counter")
