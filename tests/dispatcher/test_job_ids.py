"""ids.py: the ids of jobs, their spellings, and the keys of their submits and ends."""

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.ids import (
    DIGEST_BYTES,
    _JobIds,
    end_key,
    explicit_key,
    job_content,
    job_id_floor,
    job_key,
    natural_key,
    new_job_id,
    parse_job_id,
    spelled,
)
from receiver.base.completion import is_job_id

NOW_MS = 1_790_000_000_000
DIALECTS = ("v1", "tensorone", "runpod", "cerebrium")
uuids = st.uuids(version=4).map(lambda one: one.hex)


@given(st.integers(0, 2**48 - 1))
def test_a_jobs_id_is_a_uuid_of_version_7_kept_as_its_digits(ms: int) -> None:
    """Job ids: one UUIDv7 per job."""
    id = _JobIds().next(ms)
    read = uuid.UUID(id)
    assert (read.hex, read.version, read.variant) == (id, 7, uuid.RFC_4122)
    assert job_id_floor(ms) <= id
    assert id < job_id_floor(ms + 1) or ms == 2**48 - 1


@given(st.lists(st.integers(0, 2**48 - 1), min_size=2, max_size=50))
def test_ids_of_a_process_sort_as_they_were_made_whatever_the_clock_does(times: list[int]) -> None:
    made = _JobIds()
    ids = [made.next(ms) for ms in times]
    assert ids == sorted(set(ids))


def test_ids_of_one_millisecond_are_unique_and_in_order_and_not_the_next_number() -> None:
    """Job ids are unguessable."""
    ids = [new_job_id(NOW_MS) for _ in range(10_000)]
    assert ids == sorted(set(ids))
    steps = [int(two, 16) - int(one, 16) for one, two in pairwise(ids)]
    assert sum(step == 1 for step in steps) < 10


def test_a_bound_before_1970_is_below_all_ids() -> None:
    assert job_id_floor(-5) <= _JobIds().next(0)


@given(uuids, st.sampled_from(DIALECTS), st.booleans(), st.booleans())
def test_any_spelling_finds_the_job(id: str, dialect: str, waited: bool, upper: bool) -> None:
    """Any spelling finds the job."""
    text = spelled(id, dialect, waited=waited)
    assert parse_job_id(text) == id
    assert parse_job_id(text.upper() if upper else text.lower()) == id
    assert parse_job_id(id) == id
    assert parse_job_id(str(uuid.UUID(id))) == id
    assert is_job_id(text)


def test_three_spellings() -> None:
    """Plain for Cerebrium and RunPod, `sync-…` for runsync, `job_<32 hex>` for TensorOne and
    `/v1`."""
    id, dashed = "0198b5c28b7d7cc39a1c2f0d9b1e4a55", "0198b5c2-8b7d-7cc3-9a1c-2f0d9b1e4a55"
    assert [spelled(id, dialect) for dialect in DIALECTS] == [
        f"job_{id}",
        f"job_{id}",
        dashed,
        dashed,
    ]
    assert spelled(id, "runpod", waited=True) == f"sync-{dashed}"
    assert len(f'{{"run_id":"{spelled(id, "cerebrium")}"}}\n') == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job_",
        "0198b5c28b7d7cc39a1c2f0d9b1e4a5",
        "0198b5c28b7d7cc39a1c2f0d9b1e4a555",
        "0198b5c2-8b7d7cc3-9a1c-2f0d9b1e4a55",
        "cb_0198b5c28b7d7cc39a1c2f0d9b1e4a55",
        "job_sync-0198b5c28b7d7cc39a1c2f0d9b1e4a55",
        " 0198b5c28b7d7cc39a1c2f0d9b1e4a55",
        "0198b5c28b7d7cc39a1c2f0d9b1e4a55\n",
        "\u0660198b5c28b7d7cc39a1c2f0d9b1e4a55",
        "\u0130" * 32,
    ],
)
def test_what_is_no_job_id_is_none(text: str) -> None:
    assert parse_job_id(text) is None


@given(st.text(max_size=60))
def test_parsing_never_fails(text: str) -> None:
    id = parse_job_id(text)
    assert id is None or parse_job_id(spelled(id, "v1")) == id


def test_keys_of_submits_ends_and_callbacks_never_meet() -> None:
    """The callback belongs to the run: its key is made of (job, run)."""
    id = new_job_id(NOW_MS)
    keys = {
        end_key(id, 1),
        end_key(id, 2),
        job_key("t", id),
        job_key("u", id),
        explicit_key("t", id),
        natural_key("t", id, "completed", "", b"", 1, is_end=True),
    }
    assert len(keys) == 6
    assert end_key(id, 1) == end_key(id, 1)
    assert len(end_key(id, 1)) > DIGEST_BYTES


def test_keys_of_ends_sort_by_when_the_jobs_were_made() -> None:
    """Those that are stored together stand together in the index of keys, however long it is."""
    ids = [new_job_id(NOW_MS + n // 3) for n in range(30)]
    keys = [end_key(id, run) for id in ids for run in (1, 2, 300)]
    assert keys == sorted(keys)


def test_content_is_all_that_a_repeated_key_must_come_with() -> None:
    """The same key with other content is a conflict."""
    given = ("ep", None, "https://host/hook", b"\0" * 32, "application/json")
    others = [
        ("ep2", None, "https://host/hook", b"\0" * 32, "application/json"),
        ("ep", "predict", "https://host/hook", b"\0" * 32, "application/json"),
        ("ep", None, None, b"\0" * 32, "application/json"),
        ("ep", None, "https://host/hook", b"\1" * 32, "application/json"),
        ("ep", None, "https://host/hook", b"\0" * 32, "text/plain"),
    ]
    digests = {job_content(*one) for one in [given, *others]}
    assert len(digests) == 6
    assert job_content(*given) in digests
