"""What answers of certain kinds of upstreams say."""

import json
from typing import Any

import pytest

from dispatcher.jobs.judge import judge
from dispatcher.jobs.values import Output
from dispatcher.sending.kinds import prediction_of, read
from tests.dispatcher.jobs.made import NOW_MS, job
from tests.dispatcher.jobs.test_kinds import COG, met, of_kind

pytestmark = pytest.mark.quick


def test_a_workers_answer_is_its_output_as_it_wrote_it() -> None:
    """`{status, output | error}` is unwrapped; not a byte of the output is written anew."""
    made = of_kind("runpod")
    said = b'{"id":"test-1","status":"COMPLETED","output":{"a": 1.10,"b":[ ]}}'
    found = read(made, met(said))
    assert found.output == Output(body=b'{"a": 1.10,"b":[ ]}', content_type="application/json")
    assert judge(found, job(), made, now_ms=NOW_MS, random=0.5).state == "completed"
    nothing = read(made, met({"status": "COMPLETED"}))
    assert nothing.output is not None
    assert nothing.output.body == b"null"


@pytest.mark.parametrize("said", [{"error": "out of memory"}, {"error": {"code": 7}}, {}])
def test_a_worker_that_failed_says_so_in_an_answer_of_200(said: dict[str, Any]) -> None:
    """The job has failed, and its error is what the worker said."""
    made = of_kind("runpod")
    found = read(made, met({"status": "FAILED", **said}))
    verdict = judge(found, job(), made, now_ms=NOW_MS, random=0.5)
    assert (verdict.state, verdict.reason) == ("failed", "rejected")
    assert found.output is not None
    error = said.get("error", "FAILED")
    assert found.output.body.decode() in (error, json.dumps(error), '{"code": 7}')


@pytest.mark.parametrize("body", [b"no json", b"[1]", b'{"status":7}', b'{"status":"IN_QUEUE"}'])
def test_what_is_no_workers_answer_is_left_alone(body: bytes) -> None:
    answer = met(body)
    assert read(of_kind("runpod"), answer) == answer
    assert read(of_kind("http"), met({"status": "FAILED"})).failed is False


# --- cog ---


def test_a_prediction_that_is_over_is_its_output_or_its_error() -> None:
    done = prediction_of(b'{"id":"x","status":"succeeded","output":["a", "b"],"logs":"z"}')
    assert done is not None
    assert (done.state, done.output.body) == ("completed", b'["a", "b"]')
    failed = prediction_of(b'{"status":"failed","error":"no \\u00e9"}')
    assert failed is not None
    assert (failed.state, failed.output.body.decode()) == ("failed", "no é")
    gone = prediction_of(b'{"status":"canceled"}')
    assert gone is not None
    assert (gone.state, gone.output.body) == ("cancelled", b"the upstream cancelled it")
    assert prediction_of(b'{"status":"unheard of"}') is None
    assert prediction_of(b"{") is None


def test_a_prediction_that_runs_tells_how_far_it_is_by_its_log() -> None:
    """The last line of its log, and the percentage that progress bars write."""
    logs = "loading\n  5%|5         | 1/20\r 45%|####5     | 9/20 [00:01<00:01]"
    said = prediction_of(json.dumps({"status": "processing", "logs": logs}).encode())
    assert said is not None
    assert (said.state, said.percent) == ("running", 45.0)
    assert said.step == "45%|####5     | 9/20 [00:01<00:01]"
    quiet = prediction_of(b'{"status":"starting"}')
    assert quiet is not None
    assert (quiet.step, quiet.percent) == (None, None)


def test_a_server_that_waited_for_the_end_all_the_same_ends_its_job() -> None:
    made = of_kind("cog", COG)
    found = read(made, met({"status": "succeeded", "output": 7}))
    assert judge(found, job(), made, now_ms=NOW_MS, random=0.5).state == "completed"
    failed = read(made, met({"status": "failed", "error": "no"}))
    assert judge(failed, job(), made, now_ms=NOW_MS, random=0.5).state == "failed"
