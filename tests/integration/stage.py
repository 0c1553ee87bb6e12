"""A worker whose steps are played: real store, real scripts and the real runner, but no server behind the steps.

A step that nobody gave a part completes at once. ``Killed`` is the death of a worker: it passes through everything, as
SIGKILL does, and leaves the lease behind.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from common.domain.itinerary import ITINERARIES
from common.domain.job import Job, Outcome, State
from common.lxd.client import LxdClient
from common.store.events import EventStore
from common.store.jobs import Claim, JobStore
from common.store.operations import OperationStore
from tests.builders import Clock
from tests.integration.wire import Wire
from workers.runner import Runner
from workers.steps.context import Context

Part = Callable[[Context], Outcome]

STEP_NAMES = frozenset(step.name for itinerary in ITINERARIES.values() for step in itinerary.steps)


class Killed(BaseException):
    """The worker is dead."""


@dataclass
class PlayedSteps(Mapping[str, Part]):
    """Stands for the step registry: plays the parts that a test wrote, one for each run of a step, then completes."""

    clock: Clock
    parts: dict[str, list[Part]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)

    def __getitem__(self, name: str) -> Part:
        if name not in STEP_NAMES:
            raise KeyError(name)
        return lambda ctx: self._play(name, ctx)

    def __iter__(self) -> Iterator[str]:
        return iter(STEP_NAMES)

    def __len__(self) -> int:
        return len(STEP_NAMES)

    def _play(self, name: str, ctx: Context) -> Outcome:
        self.contexts.append(ctx)
        self.ran.append(name)
        written = self.parts.get(name)
        return written.pop(0)(ctx) if written else self.complete(name, ctx)

    def complete(self, name: str, ctx: Context) -> Outcome:
        """What the real step would report when all went well."""
        if name == "check_source":
            return Outcome.completed(was_running=True)
        if name == "stop_source" and "down_at" not in ctx.job.facts:
            return Outcome.completed(down_at=self.clock().isoformat())
        if name == "verify_target":
            return Outcome.completed(up_at=self.clock().isoformat())
        return Outcome.completed()


@dataclass
class DyingStore:
    """A job store whose worker is killed right after the checkpoint that follows a run of ``dies_after``."""

    real: JobStore
    steps: PlayedSteps
    dies_after: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def commit(self, claim: Claim, job: Job, **effects: Any) -> str:
        """Save, and die if it is time."""
        control = self.real.commit(claim, job, **effects)
        if self.steps.ran and self.steps.ran[-1] == self.dies_after:
            raise Killed
        return control


@dataclass
class Stage:
    """One namespace with its store, its queues and workers that answer wake-ups."""

    store: JobStore
    operations: OperationStore
    events: EventStore
    wire: Wire
    clock: Clock
    steps: PlayedSteps

    def worker(self, store: JobStore | DyingStore | None = None) -> Runner:
        """Another worker process, with the played steps."""
        return Runner(
            jobs=cast("JobStore", store or self.store),
            operations=self.operations,
            client_of=lambda _: cast("LxdClient", None),
            now=self.clock,
        )

    def deliver(self, runner: Runner | None = None) -> None:
        """Answer wake-ups until there are none left."""
        answering = runner or self.worker()
        for _ in range(200):
            taken = self.wire.take()
            if not taken:
                return
            for _, job_id in taken:
                answering.advance(job_id)
        raise AssertionError("wake-ups without end")

    def let_time_pass(self, job_id: str = "p1-1") -> None:
        """The job's delay or lease has passed: the pump of any worker sends it again."""
        self.wire.let_pass(job_id)
        self.store.pump()

    def play(self, job_id: str = "p1-1", *, looks: int = 60) -> Job:
        """Deliver and let time pass until the job rests; the job then."""
        for _ in range(looks):
            self.deliver()
            if self.at_rest(job_id):
                return self.job(job_id)
            self.let_time_pass(job_id)
        raise AssertionError(f"{self.job(job_id)} does not come to rest")

    def at_rest(self, job_id: str = "p1-1") -> bool:
        """Whether nothing happens to the job by itself any more."""
        job = self.job(job_id)
        return job.has_ended or job.state is State.PAUSED

    def job(self, job_id: str = "p1-1") -> Job:
        """The job as stored."""
        found = self.store.job(job_id)
        assert found
        return found

    def told(self, *keys: str) -> list[tuple[Any, ...]]:
        """These fields of all events of plan ``p1``."""
        return [tuple(event[key] for key in keys) for _, event in self.events.read("p1")]
