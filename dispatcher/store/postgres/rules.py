"""The settings that the verbs need, as the store's own units."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A destination's default concurrency, how far a lease outlasts its attempt, and how long an
    idempotency key holds."""

    concurrency: int
    lease_margin_ms: int
    key_ms: int
