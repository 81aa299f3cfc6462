"""dedupe.py: the table that decides, and what it promises in any order of arrival."""

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.base.completion import canonical
from receiver.inbox.dedupe import End, Kind, Known, Verdict, judge, kind_of

NEW = Known()
DONE = End(status="completed")


@pytest.mark.parametrize(
    ("job_id", "status", "kind"),
    [
        ("a", "completed", "terminal"),
        ("a", "failed", "terminal"),
        ("a", "cancelled", "terminal"),
        ("a", "timeout", "terminal"),
        ("a", "COMPLETED", "terminal"),
        ("a", "FAILED", "terminal"),
        ("a", "CANCELLED", "terminal"),
        ("a", "TIMED_OUT", "terminal"),
        ("a", None, "terminal"),
        ("a", "running", "progress"),
        ("a", "IN_PROGRESS", "progress"),
        ("a", "anything", "opaque"),
        (None, None, "opaque"),
        (None, "completed", "opaque"),
    ],
)
def test_the_status_says_whether_a_message_ends_its_job(
    job_id: str | None, status: str | None, kind: Kind
) -> None:
    """In the founding documents' spellings; a completion may come without a status."""
    assert kind_of(job_id, status) == kind


@pytest.mark.parametrize(
    ("kind", "known", "verdict"),
    [
        ("terminal", NEW, "accepted"),
        ("terminal", Known(same_bytes=True, same_message=True, end=DONE), "duplicate"),
        ("terminal", Known(same_bytes=True, end=DONE), "duplicate"),
        ("terminal", Known(end=DONE), "conflict"),
        ("terminal", Known(end=DONE, id_taken=True), "conflict"),
        ("terminal", Known(id_taken=True), "accepted"),
        ("terminal", Known(end=End(status="completed", run=2)), "late"),
        ("terminal", Known(end=End(status="completed", run=2), same_bytes=True), "duplicate"),
        ("progress", Known(end=End(status="completed", run=2)), "late"),
        ("opaque", Known(end=DONE), "accepted"),
        ("progress", NEW, "accepted"),
        ("progress", Known(same_bytes=True, same_message=True), "duplicate"),
        ("progress", Known(same_bytes=True), "accepted"),
        ("progress", Known(same_bytes=True, same_message=True, end=DONE), "duplicate"),
        ("progress", Known(end=DONE), "late"),
        ("progress", Known(id_taken=True), "conflict"),
        ("opaque", NEW, "accepted"),
        ("opaque", Known(same_bytes=True, same_message=True), "duplicate"),
        ("opaque", Known(same_bytes=True), "accepted"),
        ("opaque", Known(id_taken=True), "conflict"),
    ],
)
def test_the_table_of_verdicts(kind: Kind, known: Known, verdict: Verdict) -> None:
    """Each line of the table in dedupe.py."""
    assert judge(kind, known, End(status="failed")) == verdict


@pytest.mark.parametrize(
    ("run", "end", "latest", "verdict"),
    [
        (2, End(status="completed"), False, "accepted"),
        (2, End(status="completed", run=1), False, "accepted"),
        (2, End(status="completed", run=2), False, "conflict"),
        (1, End(status="completed"), False, "conflict"),
        (1, End(status="failed"), True, "conflict"),
        (1, End(status="completed", run=3), True, "late"),
        (None, End(status="failed", run=1), True, "conflict"),
        (None, End(status="failed"), True, "accepted"),
        (None, End(status="failed"), False, "conflict"),
        (1, End(status="failed", via="status"), False, "duplicate"),
        (2, End(status="failed", via="status"), False, "accepted"),
    ],
)
def test_each_run_has_its_end_and_a_higher_one_counts(
    run: int | None, end: End, latest: bool, verdict: Verdict
) -> None:
    """A signed run decides; reruns concern those without one."""
    candidate = End(status="failed", run=run)
    assert judge("terminal", Known(end=end), candidate, run=run, latest=latest) == verdict


def test_what_a_status_url_says_is_of_no_run_in_particular() -> None:
    """It repeats the end that is known, or contradicts it; it is never late."""
    end = End(status="completed", run=3)
    for status, verdict in (("completed", "duplicate"), ("failed", "conflict")):
        asked = End(status=status, via="status")
        assert judge("terminal", Known(end=end), asked) == verdict


@dataclass(frozen=True)
class Sent:
    job_id: str | None
    status: str | None
    body: int
    message_id: str | None

    @property
    def kind(self) -> Kind:
        return kind_of(self.job_id, self.status)


def end_of(sent: Sent) -> End:
    return End(status=canonical(sent.status))


def ends(sent: Sent, verdict: Verdict, job_id: str | None) -> bool:
    return (sent.job_id, sent.kind, verdict) == (job_id, "terminal", "accepted")


def arrive(messages: list[Sent]) -> list[tuple[Sent, Verdict]]:
    """A model of the inbox: what each message is judged to be, in this order."""
    stored: list[tuple[Sent, Verdict]] = []
    judged = []
    for sent in messages:
        # The body holds job and status, so equal bytes mean equal job and status.
        same = [
            s
            for s, _ in stored
            if (s.job_id, s.status, s.body) == (sent.job_id, sent.status, sent.body)
        ]
        known = Known(
            same_bytes=bool(same),
            same_message=any(
                s.message_id == sent.message_id or None in (s.message_id, sent.message_id)
                for s in same
            ),
            id_taken=sent.message_id is not None
            and any(s.message_id == sent.message_id and s not in same for s, _ in stored),
            end=next((end_of(s) for s, v in stored if ends(s, v, sent.job_id)), None),
        )
        verdict = judge(sent.kind, known, end_of(sent))
        judged.append((sent, verdict))
        if verdict != "duplicate":
            stored.append((sent, verdict))
    return judged


SENT = st.builds(
    Sent,
    job_id=st.sampled_from(["a", "b"]),
    status=st.sampled_from(["completed", "FAILED", None, "running", "queued"]),
    body=st.integers(0, 1),
    message_id=st.sampled_from([None, "m1", "m2", "m3"]),
)


@given(st.lists(SENT, max_size=12), st.randoms(use_true_random=False))
def test_a_job_ends_exactly_once_in_any_order(messages: list[Sent], random: Random) -> None:
    """Whichever order and however often: one accepted end for every job that has one."""
    shuffled = list(messages)
    random.shuffle(shuffled)
    for order in (messages, shuffled, messages + shuffled):
        ends = Counter(
            sent.job_id
            for sent, verdict in arrive(order)
            if sent.kind == "terminal" and verdict == "accepted"
        )
        ended = {sent.job_id for sent in order if sent.kind == "terminal"}
        assert ends == dict.fromkeys(ended, 1)


@given(st.lists(SENT, max_size=12))
def test_everything_sent_again_is_a_duplicate(messages: list[Sent]) -> None:
    """A second delivery of the same messages changes nothing, in whichever order they ended up."""
    judged = arrive(messages + messages)
    assert {verdict for _, verdict in judged[len(messages) :]} <= {"duplicate"}


@given(st.lists(SENT, max_size=12))
def test_nothing_is_accepted_or_late_on_the_wrong_side_of_the_end(messages: list[Sent]) -> None:
    """Before the end progress is never late; after it, never accepted."""
    ended: set[str | None] = set()
    for sent, verdict in arrive(messages):
        if verdict == "late":
            assert sent.job_id in ended
        if verdict == "accepted":
            assert sent.job_id not in ended
        if sent.kind == "terminal":
            ended.add(sent.job_id)
