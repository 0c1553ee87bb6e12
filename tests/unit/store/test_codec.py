"""The codec: what is stored is what is read, for every value that is ever stored."""

import json
from datetime import timedelta

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.domain.job import Job, Pass, State
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Plan
from common.store.codec import decode, encode, from_plain, to_plain
from tests.builders import NOW, a_full_plan, a_plan, an_error

FULL_JOB = Job(
    id="p1-1",
    plan="p1",
    number=0,
    move=a_full_plan().moves[0],
    limits=a_full_plan().request.limits,
    state=State.WAITING,
    itinerary="cold",
    step="full_pass",
    attempts=2,
    blocked_on="the pass",
    error=an_error(),
    evidence={"pass": 1, "offer": {"remote": "s1", "id": "o1", "project": "default"}, "forced": True},
    facts={"was_running": True, "down_at": NOW.isoformat(), "wrecks": ["s2:x"]},
    operations=(OperationRef(remote="s1", id="o1"), OperationRef(remote="s2", id="o2", project="shop")),
    passes=(Pass(number=0, kind="full", took=timedelta(seconds=1.25), sent=2**40),),
    total_attempts=5,
    give_backs=1,
    undo_then="resume",
    reached="full_pass",
    created_at=NOW,
    started_at=NOW + timedelta(microseconds=1),
    finished_at=NOW + timedelta(days=1),
)


@pytest.mark.parametrize("job", [FULL_JOB, Job.of_move(a_plan(), 0, NOW)], ids=["full", "new"])
def test_a_job_survives_the_store(job: Job) -> None:
    """With every field set, and with every field at its default."""
    assert decode(Job, encode(job)) == job


@pytest.mark.parametrize("plan", [a_full_plan(), a_plan()], ids=["full", "smallest"])
def test_a_plan_survives_the_store_and_json(plan: Plan) -> None:
    """The same plain values serve msgpack, JSON and YAML."""
    assert decode(Plan, encode(plan)) == plan
    assert from_plain(Plan, json.loads(json.dumps(to_plain(plan)))) == plan


def test_an_operation_survives_the_store() -> None:
    """With what a listener keeps of its metadata."""
    operation = Operation(
        id="o1",
        status_code=400,
        description="Creating instance",
        error="No space left",
        may_cancel=True,
        resources={"instances": ("/1.0/instances/web1",)},
        metadata={"return": 1, "fs_progress": "web1: 1.5GB (30MB/s)"},
    )
    assert decode(Operation, encode(operation)) == operation


def test_what_is_stored_is_plain_msgpack() -> None:
    """Any tool can look into Redis, and the scripts could."""
    stored = msgpack.unpackb(encode(FULL_JOB))
    assert stored["state"] == "waiting"
    assert stored["move"]["instance"] == "web1"


def test_a_record_of_an_older_herder_is_read_with_defaults() -> None:
    """A field that came later is at its default."""
    plain = {key: value for key, value in to_plain(FULL_JOB).items() if key not in ("give_backs", "reached")}
    job = from_plain(Job, plain)
    assert (job.give_backs, job.reached) == (0, "")


def test_what_is_no_such_value_is_refused() -> None:
    """A record that cannot be understood must not become a job with defaults."""
    with pytest.raises(ValidationError):
        from_plain(Job, {"id": "p1-1"})
    with pytest.raises(ValidationError):
        from_plain(Job, {**to_plain(FULL_JOB), "state": "levitating"})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(evidence=st.dictionaries(st.text(), _JSON, max_size=4), seconds=st.floats(0, 1e7), text=st.text())
def test_whatever_a_step_remembers_survives(evidence: dict[str, object], seconds: float, text: str) -> None:
    """Durations to the microsecond, any text, any nesting of lists."""
    finished = Pass(number=0, kind="full", took=timedelta(seconds=seconds))
    job = Job(
        id="p1-1",
        plan="p1",
        number=0,
        move=a_plan().moves[0],
        evidence=evidence,
        passes=(finished,),
        blocked_on=text,
    )
    assert decode(Job, encode(job)) == job
