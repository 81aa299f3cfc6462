"""What an upstream reports of a job while it runs: how far it is, what it does, and whatever else
it says of itself. Pure.

Reports of one call add up: each says what has changed, and the rest stays as it was.
"""

import json
from dataclasses import dataclass, replace
from typing import Final

METADATA_BYTES_MAX: Final = 16 * 1024
STEP_CHARS_MAX: Final = 1_000
LOG_CHARS_MAX: Final = 16 * 1024
"""So much of what is logged is kept, the last of it."""
ESTIMATED_FROM: Final = 5.0
"""From so many percent on, how long the rest takes is told by how long this took."""

_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is: `percent` of 0 to 100, its present `step`, `metadata`, a JSON object as its
    upstream wrote it, and the last lines of its `log`; each None while nothing was said of it. `n`
    reports came, from `since_ms` on, the last one at `at_ms`."""

    percent: float | None = None
    step: str | None = None
    metadata: str | None = None
    log: str | None = None
    n: int = 1
    since_ms: int
    at_ms: int

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing of how far the job is."""
        return self.percent is None and self.step is None and self.metadata is None

    def then(self, later: "Progress") -> "Progress":
        """Return this and what was reported after it."""
        return replace(
            self,
            percent=self.percent if later.percent is None else later.percent,
            step=self.step if later.step is None else later.step,
            metadata=self.metadata if later.metadata is None else later.metadata,
            log=logged(self.log, later.log),
            n=self.n + later.n,
            at_ms=max(self.at_ms, later.at_ms),
        )


def logged(before: str | None, later: str | None) -> str | None:
    """Return a log with more lines: as much of it as is kept, from the beginning of a line."""
    if later is None or before is None:
        text = before if later is None else later
    else:
        text = before.removesuffix("\n") + "\n" + later
    if text is None or len(text) <= LOG_CHARS_MAX:
        return text
    kept = text[-LOG_CHARS_MAX:]
    return kept if text[-LOG_CHARS_MAX - 1] == "\n" else kept.partition("\n")[2] or kept


def body_of(progress: Progress) -> bytes:
    """Return what is stored of its texts."""
    texts = [progress.step, progress.metadata, progress.log]
    return _to_json(texts).encode(errors="replace")


def read_body(body: bytes) -> tuple[str | None, str | None, str | None]:
    """Return the step, the metadata and the log that were stored."""
    step, metadata, *rest = json.loads(body)
    return step, metadata, rest[0] if rest else None


def document(progress: Progress) -> dict[str, str]:
    """Return what is known, by the names that views have for it, each as JSON."""
    shown: dict[str, str] = {}
    if progress.percent is not None:
        shown["progress"] = number(progress.percent)
    if progress.step is not None:
        shown["currentStep"] = _to_json(progress.step)
    if progress.metadata is not None:
        shown["metadata"] = progress.metadata
    return shown


def number(percent: float) -> str:
    """Return a number as JSON: a whole one without a point."""
    return str(int(percent)) if percent == int(percent) else repr(percent)


def completion_ms(progress: Progress, began_ms: int, *, now_ms: int) -> int | None:
    """Return when a call that began then will have ended if it goes on as it did, never in the
    past; None while too little of it is done to tell."""
    if progress.percent is None or progress.percent < ESTIMATED_FROM:
        return None
    took_ms = max(0, progress.at_ms - began_ms)
    return max(now_ms, began_ms + round(took_ms * 100 / progress.percent))
