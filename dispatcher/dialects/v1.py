"""Our own way to tell of an end: TensorOne's, with the run and the endpoint. Pure."""

from dispatcher.dialects import tensorone
from dispatcher.dialects.snapshot import Payload, Snapshot


def payload(shown: Snapshot) -> Payload:
    """Return what a callback says of an end."""
    return Payload(tensorone.document(shown, _more(shown)))


def going(shown: Snapshot, output: bytes | None = None) -> bytes:
    """Return what a callback says of a job that runs, with a piece of its `output` as JSON."""
    return tensorone.going(shown, output, _more(shown))


def _more(shown: Snapshot) -> str:
    return f',"run":{shown.job.run},"endpoint":"{shown.job.endpoint}"'
