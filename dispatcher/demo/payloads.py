"""Completions as three serverless platforms send them."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished job: its id, the bytes to deliver, and tags to find it by."""

    job_id: str
    body: bytes
    tags: dict[str, str]


def completion(number: int, *, team: str) -> Completion:
    """Return the `number`-th completion of a demo, in one of the three dialects in turn."""
    dialect = (_tensorone, _runpod, _cerebrium)[number % 3]
    job_id, document = dialect(number)
    body = json.dumps(document, separators=(",", ":")).encode()
    tags = {"team": team, "platform": dialect.__name__.strip("_")}
    return Completion(job_id=job_id, body=body, tags=tags)


def _tensorone(number: int) -> tuple[str, dict[str, Any]]:
    job_id = f"job_{number:016x}"
    return job_id, {
        "jobId": job_id,
        "status": "completed",
        "output": {
            "document_url": f"https://storage.example/documents/report_{number}.pdf",
            "pages": 50,
            "word_count": 12_500,
            "generation_time": 287,
        },
        "executionTime": 287.5,
        "completedAt": "2024-01-15T14:34:47Z",
        "cost": 0.75,
        "tags": {"userId": "user_12345", "projectId": "proj_report_gen"},
    }


def _runpod(number: int) -> tuple[str, dict[str, Any]]:
    job_id = f"{number:08x}-demo-u1"
    return job_id, {
        "jobId": job_id,
        "status": "COMPLETED",
        "input": {"prompt": "The lazy brown fox jumps over the"},
        "output": {"text": "The lazy brown fox jumps over the quick dog."},
        "executionTime": 2_297,
    }


def _cerebrium(number: int) -> tuple[str, dict[str, Any]]:
    job_id = f"21eb3b98-4b10-9ad6-8681-{number:012x}"
    return job_id, {"jobId": job_id, "status": "success", "result": {"smile": "wave"}}
