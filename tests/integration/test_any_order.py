"""Whatever happens, in whatever order: the fence holds, no job is forgotten, and every job comes to rest."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from common.domain.errors import FenceLost, InputError
from common.domain.itinerary import WARM
from common.domain.job import Job, Outcome, State
from common.domain.operation import Operation, OperationRef
from common.store.events import EventStore
from common.store.jobs import Claim, JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from producer import control
from tests.builders import NOW, Clock, a_plan, an_error
from tests.integration.conftest import stored
from tests.integration.stage import PlayedSteps, Stage
from tests.integration.wire import Wire

JOB = "p1-1"
MINUTE = timedelta(minutes=1)
REF = OperationRef(remote="s1", id="o1")

WORKERS = st.sampled_from(["w1", "w2", "w3"])
#: Most of the time it is the holder who acts, else nothing would ever come of it.
ACTING = st.one_of(st.just("the holder"), st.just("the holder"), WORKERS)
OUTCOMES = st.sampled_from(["completed", "again", "wait", "operation", "retry", "failed", "paused", "cancelled"])
ACTIONS = st.one_of(
    st.tuples(st.just("claim"), WORKERS),
    st.tuples(st.just("commit"), ACTING, OUTCOMES, st.booleans()),
    st.tuples(st.just("commit"), st.just("the holder"), OUTCOMES, st.booleans()),
    st.tuples(st.just("renew"), ACTING),
    st.tuples(st.sampled_from(["time passes", "pump", "complete", "lose messages"])),
    st.tuples(st.sampled_from(["pause", "resume", "cancel", "retry"])),
)


@dataclass
class World:
    """One job, three workers that may hold it or think so, and who really does."""

    store: JobStore
    operations: OperationStore
    events: EventStore
    wire: Wire
    redis_client: "Redis"
    keys: Keys
    claims: dict[str, tuple[Claim, Job]] = field(default_factory=dict)
    holder: str = ""

    def do(self, action: tuple[object, ...]) -> None:
        """Let one thing happen."""
        match action:
            case ("claim", str(worker)):
                self._claim(worker)
            case ("commit", str(worker), str(outcome), bool(keep)):
                self._commit(self._who(worker), outcome, keep=keep)
            case ("renew", str(worker)):
                self._checked(self._who(worker), self.store.renew)
            case ("time passes",):
                self.wire.let_pass(JOB)
            case ("pump",):
                self.store.pump()
            case ("complete",):
                self.operations.complete("s1", Operation(id="o1", status_code=200))
            case ("lose messages",):
                self.wire.take()
            case (str(verb),):
                before = self.wire.job(JOB)["ver"]
                with suppress(InputError):
                    getattr(control, verb)(JOB, self.store)
                if self.wire.job(JOB)["ver"] != before:
                    self.holder = ""  # the person's command held the job for a moment

    def _who(self, worker: str) -> str:
        return self.holder if worker == "the holder" else worker

    def _claim(self, worker: str) -> None:
        claim = self.store.claim(JOB, uuid.uuid4().hex)
        if claim is None:
            return
        job = claim.job
        if job.state is State.PARKED:
            job = job.cancelled()
        self.claims[worker] = claim, job if job.state is State.RUNNING else job.taken(NOW)
        self.holder = worker

    def _checked(self, worker: str, act: Callable[[Claim], object]) -> bool:
        """Act under the worker's claim: it succeeds exactly if the worker is the holder."""
        if worker not in self.claims:
            return False
        claim, _ = self.claims[worker]
        if worker == self.holder:
            act(claim)
            return True
        with pytest.raises(FenceLost):
            act(claim)
        return False

    def _commit(self, worker: str, outcome: str, *, keep: bool) -> None:
        if worker not in self.claims:
            return
        job = self._after(self.claims[worker][1], outcome)
        keep = keep and job.state is State.RUNNING
        delay = MINUTE if job.state is State.WAITING else timedelta(0)
        if self._checked(worker, lambda claim: self.store.commit(claim, job, keep=keep, delay=delay)):
            self.claims[worker] = self.claims[worker][0], job
            if not keep:
                self.holder = ""
                del self.claims[worker]

    def _after(self, job: Job, outcome: str) -> Job:
        if outcome == "paused":
            return job.to(State.PAUSED, blocked_on="a person")
        if outcome == "cancelled":
            return job if job.is_committed else job.cancelled()
        reported = {
            "completed": Outcome.completed(),
            "again": Outcome.again(),
            "wait": Outcome.wait("x", retry_in=MINUTE),
            "operation": Outcome.wait("x", retry_in=MINUTE, operations=(REF,)),
            "retry": Outcome.retry(an_error(), retry_in=MINUTE),
            "failed": Outcome.failed(an_error()),
        }
        return job.with_outcome(reported[outcome], NOW)

    def check(self) -> None:
        """What must be so at any moment."""
        seen = self.wire.job(JOB)
        to_be_cancelled = seen["state"] == "paused" and seen["control"] == "cancel"
        rests = seen["state"] in ("done", "parked", "cancelled", "paused") and not to_be_cancelled
        is_due = self.redis_client.zscore(self.keys.due, JOB) is not None
        assert is_due is not rests, f"{seen} must be due exactly if it does not rest"
        if self.holder and int(seen["lease"]) > 1:
            assert self.store.claim(JOB, "thief") is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=10, max_size=50))
def test_any_order_of_events_leaves_a_job_that_comes_to_its_end(
    shared_client: "Redis", monkeypatch: pytest.MonkeyPatch, actions: list[tuple[object, ...]]
) -> None:
    """Only the holder ever changes the job; what does not rest is due; and what rests goes on when a person says so."""
    keys = Keys(f"test-{uuid.uuid4().hex[:12]}")
    store = JobStore(shared_client, keys)
    operations, events = OperationStore(shared_client, keys, store), EventStore(shared_client, keys)
    world = World(store, operations, events, Wire(shared_client, keys), shared_client, keys)
    stored(a_plan(), store)
    for action in actions:
        world.do(action)
        world.check()

    # From here on, no worker dies and no person wavers.
    clock = Clock()
    steps = PlayedSteps(clock)
    monkeypatch.setattr("workers.runner.STEPS", steps)
    stage = Stage(store, operations, events, world.wire, clock, steps)
    stage.let_time_pass()
    job = stage.play()
    while job.state in (State.PAUSED, State.PARKED):
        (control.resume if job.state is State.PAUSED else control.retry)(JOB, store)
        job = stage.play()
    assert job.state in (State.DONE, State.CANCELLED)
    if job.state is State.DONE:
        assert steps.ran[-1:] == [WARM.steps[-1].name] or not steps.ran
    assert replace(job, evidence={}).is_committed is (job.state is State.DONE)
    assert store.unfinished() == 0
