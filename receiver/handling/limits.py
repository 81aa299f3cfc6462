"""How handlers are run; see the settings of the same names."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Counts and seconds."""

    concurrency: int
    timeout_s: float
    attempts: int
    retry_base_s: float
    retry_cap_s: float
    poll_s: float = 1.0  # where other replicas leave work behind
