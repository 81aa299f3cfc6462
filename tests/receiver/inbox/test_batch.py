"""Deciding a batch is deciding its messages one after another."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from receiver.inbox.batch import Facts, Plan, decide, incoming, lookups
from receiver.inbox.message import Message
from tests.receiver.inbox.messages import message

messages = st.lists(
    st.builds(
        message,
        job_id=st.sampled_from([None, "job_1", "job_2"]),
        status=st.sampled_from(["completed", "failed", "running", "who knows"]),
        run=st.sampled_from([None, None, 1, 2, 3]),
        id=st.sampled_from([f"cb_{n:032x}" for n in range(4)]),
        text=st.sampled_from(["a", "b"]),
        has_handler=st.booleans(),
        latest=st.booleans(),
    ),
    max_size=12,
)


def decided(sent: Sequence[Message]) -> Plan:
    return decide([incoming(one) for one in sent], Facts(), itertools.count(1))


@given(messages)
def test_what_is_accepted_first_decides_all_copies_of_it(sent: list[Message]) -> None:
    """Sent twice in one batch, the second half is all duplicates; of ids that sort."""
    verdicts = decided([*sent, *sent]).verdicts
    assert verdicts[: len(sent)] == decided(sent).verdicts
    assert set(verdicts[len(sent) :]) <= {"duplicate"}


@given(messages)
def test_a_plan_stores_what_is_no_duplicate_and_counts_what_is(sent: list[Message]) -> None:
    """Each once, under ids of its own, with one end a job at most."""
    plan = decided(sent)
    assert [new.id for new in plan.new] == list(range(1, len(plan.new) + 1))
    seen = sum(count for count, _ in plan.seen_again.values())
    assert (len(plan.new), seen) == (
        sum(verdict != "duplicate" for verdict in plan.verdicts),
        plan.verdicts.count("duplicate"),
    )
    ends = [new.message.job_id for new in plan.new if new.is_end]
    assert len(ends) == len(set(ends))
    assert set(plan.seen_again) <= {new.id for new in plan.new}


@given(messages)
def test_everything_that_a_message_is_judged_by_is_looked_up(sent: list[Message]) -> None:
    """Its bytes for its job, its job's end, and what else its signed id names."""
    contents, jobs, names = lookups([incoming(one) for one in sent])
    assert {(source, job) for source, job, _ in contents} == {
        (one.source, one.job_id or "") for one in sent
    }
    assert {job for _, job in jobs} == {one.job_id for one in sent if one.job_id}
    assert {id for _, id in names} == {one.message_id for one in sent if one.kind != "terminal"}
