"""Cerebrium's words for a job: what its upstream answered, and nothing around it. Pure."""

from dispatcher.dialects import v1
from dispatcher.dialects.snapshot import Payload, Snapshot


def payload(shown: Snapshot) -> Payload:
    """Return what a callback says of an end."""
    return v1.payload(shown)
