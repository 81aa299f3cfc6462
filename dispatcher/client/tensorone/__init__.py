"""TensorOne's Python client against a gateway of your own: the names of its samples.

from dispatcher.client.tensorone import TensorOneClient

client = TensorOneClient(api_key, base_url="http://127.0.0.1:8600")
job = client.endpoints.execute_async(endpoint_id="document-gen", input={"pages": 3})
print(client.jobs.get_status(job.job_id).status)

Errors are those of `dispatcher.client`.
"""

from dispatcher.client.tensorone.aio import AsyncTensorOneClient
from dispatcher.client.tensorone.results import Execution, Job, JobStatus
from dispatcher.client.tensorone.sync import TensorOneClient

Client = TensorOneClient
AsyncClient = AsyncTensorOneClient

__all__ = [
    "AsyncClient",
    "AsyncTensorOneClient",
    "Client",
    "Execution",
    "Job",
    "JobStatus",
    "TensorOneClient",
]
