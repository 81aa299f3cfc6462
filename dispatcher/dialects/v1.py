"""Our own way to tell of an end: TensorOne's, with the run and the endpoint. Pure."""

from dispatcher.dialects import tensorone
from dispatcher.dialects.snapshot import Payload, Snapshot


def payload(shown: Snapshot) -> Payload:
    """Return what a callback says of an end."""
    job = shown.job
    return Payload(tensorone.document(shown, f',"run":{job.run},"endpoint":"{job.endpoint}"'))
