"""Submitting: everything once, however often and wherever the producer dies."""

from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from common.domain.errors import InputError
from common.domain.job import Job, State
from common.store.codec import encode
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from producer.submit import submit
from producer.watch import follow, read_report
from tests.builders import NOW, a_full_plan, a_plan, an_error, many_moves
from tests.integration.wire import Wire


def test_a_plan_becomes_one_job_for_each_move(store: JobStore, wire: Wire) -> None:
    """In its order, each with its first wake-up."""
    plan = a_plan(*many_moves(3))
    assert submit(plan, store) == 3
    assert [(job.id, job.move.instance, job.state) for job in store.jobs("p1")] == [
        ("p1-1", "c1", State.QUEUED),
        ("p1-2", "c2", State.QUEUED),
        ("p1-3", "c3", State.QUEUED),
    ]
    assert wire.wake_ups() == [("preflight", "p1-1"), ("preflight", "p1-2"), ("preflight", "p1-3")]
    assert store.unfinished() == 3


def test_submitting_twice_changes_nothing(store: JobStore, wire: Wire) -> None:
    """Not even if jobs have moved on."""
    plan = a_plan(*many_moves(2))
    submit(plan, store)
    claim = store.claim("p1-1", "me")
    assert claim
    store.commit(claim, claim.job.taken(NOW).to(State.DONE, finished_at=NOW))
    before = wire.everything()
    assert submit(plan, store) == 0
    assert wire.everything() == before


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_producer_that_died_half_way_is_finished_by_the_next(
    redis_client: "Redis", keys: Keys, store: JobStore, calls: int
) -> None:
    """Wherever it died: the plan is listed and has all its jobs."""

    class DyingClient:
        """The client of a process that is killed at one of its writes."""

        left = calls

        def __getattr__(self, name: str) -> Any:
            real = getattr(redis_client, name)
            if name not in ("set", "zadd", "register_script"):
                return real
            return self._dying(self._script(real) if name == "register_script" else real)

        def _script(self, register: Callable[..., Any]) -> Callable[..., Any]:
            return lambda source: self._dying(register(source))

        def _dying(self, call: Callable[..., Any]) -> Callable[..., Any]:
            def attempt(*args: Any, **kwargs: Any) -> Any:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                return call(*args, **kwargs)

            return attempt

    plan = a_plan(*many_moves(4))
    doomed: Any = DyingClient()
    with pytest.raises(KeyboardInterrupt):
        submit(plan, JobStore(doomed, keys))
    submit(plan, store)
    assert store.plans() == ("p1",)
    assert store.plan("p1") == plan
    assert [job.id for job in store.jobs("p1")] == ["p1-1", "p1-2", "p1-3", "p1-4"]


def test_a_plan_that_was_stored_without_being_listed_is_listed_by_the_next(
    redis_client: "Redis", keys: Keys, store: JobStore
) -> None:
    """Its producer died between the two writes; people find plans by the list only."""
    redis_client.set(keys.plan("p1"), encode(a_plan()))
    submit(a_plan(), store)
    assert store.plans() == ("p1",)


def test_plans_are_listed_newest_first(store: JobStore) -> None:
    """By the moment at which they were made, not submitted."""
    for day, plan_id in ((2, "b"), (3, "c"), (1, "a")):
        store.save_plan(a_plan(id=plan_id, created_at=NOW.replace(day=day)))
    assert store.plans() == ("c", "b", "a")


def test_a_stored_plan_is_never_overwritten(store: JobStore) -> None:
    """Its jobs rely on it."""
    assert store.save_plan(a_plan(name="first"))
    assert not store.save_plan(a_plan(name="second"))
    assert store.plan("p1").name == "first"


def test_a_plan_survives_the_store(store: JobStore) -> None:
    """With every field."""
    store.save_plan(a_full_plan())
    assert store.plan("p1") == a_full_plan()


def test_an_unknown_plan_is_one_clear_error(store: JobStore, operations: OperationStore) -> None:
    """It names what was asked for, and how to find those that there are."""
    for ask in (store.plan, lambda name: read_report(name, store, operations)):
        with pytest.raises(InputError, match="there is no plan 'p9'") as raised:
            ask("p9")
        assert raised.value.hint == "`herder status` lists the plans"


def test_ten_thousand_jobs_are_kept_in_their_order(store: JobStore, operations: OperationStore) -> None:
    """Created, listed and reported like a few; one that comes to its end is counted."""
    count = 10_000
    plan = a_plan(*many_moves(count))
    assert submit(plan, store) == count
    assert [job.number for job in store.jobs("p1")] == list(range(count))
    assert store.unfinished() == count
    claim = store.claim("p1-7000", "me")
    assert claim
    store.commit(claim, claim.job.taken(NOW).to(State.DONE, finished_at=NOW))
    report = read_report("p1", store, operations)
    assert (report.totals.jobs, report.totals.done, report.state) == (count, 1, "running")
    assert report.jobs[6999].state == "done"


def test_a_plan_is_followed_until_nothing_moves_by_itself(store: JobStore, operations: OperationStore) -> None:
    """Each look is a report; the last one is that of the end."""
    submit(a_plan(*many_moves(2)), store)
    left = [1, 2]

    def meanwhile() -> None:
        number = left.pop(0)
        claim = store.claim(f"p1-{number}", "me")
        assert claim
        state = State.DONE if number == 1 else State.PARKED
        store.commit(claim, claim.job.taken(NOW).to(state, finished_at=NOW, error=an_error()))

    states = [report.state for report in follow("p1", store, operations, meanwhile)]
    assert states == ["running", "running", "failed"]


def test_a_job_of_another_plan_is_not_listed(store: JobStore) -> None:
    """Plans share a Redis, not their jobs."""
    submit(a_plan(id="a"), store)
    submit(a_plan(*many_moves(2), id="b"), store)
    assert [job.id for job in store.jobs("a")] == ["a-1"]
    assert [job.id for job in store.jobs("b")] == ["b-1", "b-2"]
    assert isinstance(store.job("b-2"), Job)
