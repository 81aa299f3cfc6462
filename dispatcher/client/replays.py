"""The calls about filtered replays: preview one, start it, watch it, stop it."""

import json
from typing import Any

from dispatcher.client.call import JSON, Call, path
from dispatcher.client.callbacks import Filters, wire
from dispatcher.client.read import as_json
from dispatcher.client.results import Preview, Replay


def preview_replay(filters: Filters) -> Call[Preview]:
    """Return what a replay of everything that matches would be about. Changes nothing."""
    return _post({"filter": wire(filters), "dryRun": True}, as_json(Preview), repeatable=True)


def start_replay(filters: Filters, *, rate_per_second: float | None = None) -> Call[Replay]:
    """Replay everything that matches and is in a final state now, in the background, at most
    `rate_per_second`. Raises ValidationFailed without a filter."""
    wanted: dict[str, Any] = {"filter": wire(filters)}
    if rate_per_second is not None:
        wanted["ratePerSecond"] = rate_per_second
    return _post(wanted, as_json(Replay), repeatable=False)


def get_replay(id: str) -> Call[Replay]:
    """How far a filtered replay is. Raises NotFound."""
    return Call(method="GET", path=path("replays", id), read=as_json(Replay), repeatable=True)


def cancel_replay(id: str) -> Call[Replay]:
    """Feed no more of it; what was fed stays. Raises NotFound, and Conflict once it is done."""
    return Call(
        method="POST", path=path("replays", id, "cancel"), read=as_json(Replay), repeatable=False
    )


def _post(wanted: dict[str, Any], read: Any, *, repeatable: bool) -> Call[Any]:
    return Call(
        method="POST",
        path=path("replays"),
        read=read,
        repeatable=repeatable,
        body=json.dumps(wanted).encode(),
        content_type=JSON,
    )
