"""Job, the durable record of one move; its states; and ``Job.with_outcome``, which is the whole state machine.

A job walks forward along the itinerary of its method. Before the commit point a permanent error, or a fault that
keeps the instance down for too long, turns it onto ``give_back``; a cancel turns it onto ``undo``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from common.domain.instance import COPY, KEPT, RETIRED, Instance
from common.domain.itinerary import (
    BRING_BACK,
    GIVE_BACKS,
    ITINERARIES,
    RESUME_AT,
    RESUME_AT_WITH_VOLUMES,
    UNDOS,
    Itinerary,
    Phase,
    Step,
    forward_of,
)
from common.domain.operation import OperationRef
from common.domain.plan import Limits, Move, Plan


class State(StrEnum):
    """Where a job stands. ``status`` is LXD's word, ``state`` ours."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    PARKED = "parked"
    CANCELLED = "cancelled"
    DONE = "done"


ALLOWED = frozenset(
    {
        (State.QUEUED, State.RUNNING),  # a worker took the first message
        (State.RUNNING, State.RUNNING),  # the next step, or the same one again
        (State.RUNNING, State.WAITING),  # a slot, an operation or a server is not ready
        (State.WAITING, State.RUNNING),  # ready again
        (State.RUNNING, State.DONE),  # the last step of the itinerary
        (State.RUNNING, State.PARKED),  # a person must act
        (State.RUNNING, State.CANCELLED),  # undone on request
        (State.RUNNING, State.PAUSED),  # asked to start no other step
        (State.PAUSED, State.QUEUED),  # resumed
        (State.PAUSED, State.RUNNING),  # cancelled while paused
        (State.PARKED, State.QUEUED),  # retried from the last checkpoint
        (State.CANCELLED, State.QUEUED),  # retried from the beginning
        (State.DONE, State.QUEUED),  # brought back
    }
)
ENDED = frozenset({State.DONE, State.PARKED, State.CANCELLED})
_WAYS_BACK = frozenset(way.name for way in (*GIVE_BACKS.values(), *UNDOS.values(), BRING_BACK))


class Kind(StrEnum):
    """What a step reported."""

    COMPLETED = "completed"
    AGAIN = "again"
    WAIT = "wait"
    RETRY = "retry"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class JobError:
    """An error as it is stored and shown: ``code`` from the error tree, ``hint`` says who acts how."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One finished copy of the data. ``sent`` in bytes as the source reported; passes under 1 s report nothing."""

    number: int
    kind: str
    took: timedelta
    sent: int = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one attempt of a step came to.

    ``evidence`` is what the step must find again at its next run (operation ids, intents); it is forgotten when the
    step completes. ``facts`` are kept for the steps that follow.
    """

    kind: Kind
    blocked_on: str = ""
    retry_in: timedelta = timedelta(0)
    operations: tuple[OperationRef, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: JobError | None = None
    finished_pass: Pass | None = None
    turns_back: bool = False
    turns_forward: bool = False

    @classmethod
    def goes_forward(cls, **facts: Any) -> "Outcome":
        """On its way back the job has found that it was past its commit point."""
        return cls(kind=Kind.COMPLETED, facts=facts, turns_forward=True)

    @classmethod
    def completed(cls, *, finished_pass: Pass | None = None, **facts: Any) -> "Outcome":
        """The step has reached its goal."""
        return cls(kind=Kind.COMPLETED, facts=facts, finished_pass=finished_pass)

    @classmethod
    def again(cls, *, finished_pass: Pass | None = None, evidence: Mapping[str, Any] | None = None) -> "Outcome":
        """Checkpoint, then run the same step once more at once."""
        return cls(kind=Kind.AGAIN, finished_pass=finished_pass, evidence=evidence or {})

    @classmethod
    def wait(
        cls,
        blocked_on: str,
        *,
        retry_in: timedelta,
        operations: tuple[OperationRef, ...] = (),
        evidence: Mapping[str, Any] | None = None,
    ) -> "Outcome":
        """Nothing to do until one of ``operations`` ends or ``retry_in`` has passed; ``blocked_on`` names it."""
        return cls(
            kind=Kind.WAIT,
            blocked_on=blocked_on,
            retry_in=retry_in,
            operations=operations,
            evidence=evidence or {},
        )

    @classmethod
    def retry(cls, error: JobError, *, retry_in: timedelta, turns_back: bool = False) -> "Outcome":
        """A temporary fault: the same step again, later; or, if it ``turns_back``, from the passes on."""
        return cls(kind=Kind.RETRY, error=error, retry_in=retry_in, blocked_on=error.message, turns_back=turns_back)

    @classmethod
    def failed(cls, error: JobError) -> "Outcome":
        """A permanent error."""
        return cls(kind=Kind.FAILED, error=error)


#: How long an instance may be down because of a fault before the commit point until its source is started again.
GIVE_BACK_AFTER = timedelta(seconds=30)
#: How often a job may be given back by itself before it is parked.
MAX_GIVE_BACKS = 5


@dataclass(frozen=True, kw_only=True)
class Job:
    """The durable record of one move. Times are UTC."""

    id: str
    plan: str
    number: int
    move: Move
    limits: Limits = field(default_factory=Limits)
    state: State = State.QUEUED
    itinerary: str = ""
    step: str = ""
    attempts: int = 0
    blocked_on: str = ""
    error: JobError | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    operations: tuple[OperationRef, ...] = ()
    passes: tuple[Pass, ...] = ()
    total_attempts: int = 0
    give_backs: int = 0
    undo_then: str = ""  # what follows an itinerary back: "resume" or "park"
    reached: str = ""  # the forward step that an itinerary back left
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @classmethod
    def of_move(cls, plan: Plan, number: int, now: datetime) -> "Job":
        """A new job at the first step of its itinerary, for the move at ``number`` of the plan."""
        move = plan.moves[number]
        itinerary = forward_of(move)
        return cls(
            id=plan.job_id(number),
            plan=plan.id,
            number=number,
            move=move,
            limits=plan.request.limits,
            itinerary=itinerary.name,
            step=itinerary.steps[0].name,
            created_at=now,
        )

    @property
    def forward(self) -> Itinerary:
        """The itinerary of its move."""
        return forward_of(self.move)

    @property
    def copy_name(self) -> str:
        """The copy's name until it is handed over."""
        return COPY.format(self.move.name[:40], self.id) if self.move.is_within_cluster else self.move.name

    @property
    def kept_name(self) -> str:
        """The name of what the copy was before its refresh."""
        return KEPT.format(self.move.name[:40], self.id)

    @property
    def retired_name(self) -> str:
        """The source's name at the end."""
        return RETIRED.format(self.move.name[:40], self.id) if self.move.is_within_cluster else self.move.instance

    def name_beside(self, pattern: str) -> str:
        """The name of what is beside a volume that is refreshed: by COPY the new one, by KEPT what was there."""
        (volume,) = self.move.volumes
        return pattern.format(volume.target_name[:40], self.id)

    def source_among(self, find: Callable[[str], Instance | None]) -> Instance | None:
        """The source, under whatever name it has now; ``find`` looks for an instance of a name on its server."""
        for name in self._likeliest_first(self.move.instance, self.retired_name):
            found = find(name)
            if found is not None and not (self.move.is_within_cluster and self._is_on_target(found)):
                return found
        return None

    def copy_among(self, find: Callable[[str], Instance | None]) -> Instance | None:
        """The copy, or what else has its name on the target."""
        for name in self._likeliest_first(self.copy_name, self.move.name):
            found = find(name)
            if found is not None and (not self.move.is_within_cluster or self._is_on_target(found)):
                return found
        return None

    def _likeliest_first(self, name: str, later: str) -> tuple[str, ...]:
        """Both names of one side, without looking twice for one: it gets the later one soon after the commit point."""
        return tuple(dict.fromkeys((later, name) if self.is_committed else (name, later)))

    def _is_on_target(self, instance: Instance) -> bool:
        return instance.location == self.move.target_member

    @property
    def current(self) -> Step:
        """The step that it is at."""
        return ITINERARIES[self.itinerary].step(self.step)

    @property
    def phase(self) -> Phase:
        return self.current.phase

    @property
    def is_going_back(self) -> bool:
        return self.itinerary in _WAYS_BACK

    @property
    def is_giving_back(self) -> bool:
        """Whether it is on the way back from which a later try goes on."""
        return self.itinerary == GIVE_BACKS[self.move.method].name

    @property
    def is_undoing(self) -> bool:
        """Whether it is on the way back before the commit point that leaves nothing."""
        return self.itinerary == UNDOS[self.move.method].name

    @property
    def is_committed(self) -> bool:
        """Whether the commit point lies behind it: from there it goes forward, unless a person has it brought back."""
        if self.itinerary == BRING_BACK.name:
            return True
        if self.is_going_back:
            return False
        commit = next(number for number, step in enumerate(self.forward.steps) if step.commit)
        return self.state is State.DONE or self.forward.index(self.step) > commit

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def down_at(self) -> datetime | None:
        """When the source was told to stop."""
        return self._time("down_at")

    @property
    def up_at(self) -> datetime | None:
        """When the target was verified."""
        return self._time("up_at")

    @property
    def is_down(self) -> bool:
        """Whether the instance is down because of this job, which is still at work on it."""
        return self.down_at is not None and self.up_at is None and not self.has_ended

    @property
    def is_quiet(self) -> bool:
        """Whether the lines before a backup's snapshot may have been run, and those after it not."""
        return self.facts.get("quiet") is not None

    def _time(self, fact: str) -> datetime | None:
        return datetime.fromisoformat(self.facts[fact]) if self.facts.get(fact) else None

    @property
    def downtime(self) -> timedelta | None:
        """From the stop of the source to the verified target; None if it was not down or is not up again."""
        return self.up_at - self.down_at if self.down_at and self.up_at else None

    @property
    def sent(self) -> int:
        """Bytes of all finished passes."""
        return sum(finished.sent for finished in self.passes)

    def to(self, state: State, **changes: Any) -> "Job":
        """The job in another state. Raises ValueError on a transition that is not allowed."""
        if (self.state, state) not in ALLOWED:
            raise ValueError(f"job {self.id}: {self.state} -> {state} is not a legal transition")
        return replace(self, state=state, **changes)

    def taken(self, now: datetime) -> "Job":
        """A worker has claimed it."""
        return self.to(State.RUNNING, started_at=self.started_at or now, blocked_on="", operations=())

    def noted(self, evidence: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> "Job":
        """A checkpoint inside a step: what must be found again if the worker dies now."""
        return replace(self, evidence=dict(evidence), facts={**self.facts, **(facts or {})})

    def with_outcome(self, outcome: Outcome, now: datetime) -> "Job":
        """Fold what a step reported into the record."""
        job = replace(self, facts={**self.facts, **outcome.facts})
        if outcome.finished_pass:
            job = replace(job, passes=(*job.passes, outcome.finished_pass))
        match outcome.kind:
            case Kind.COMPLETED:
                return job._turn_forward() if outcome.turns_forward else job._advance(now)
            case Kind.AGAIN:
                why_back = job.error if job.is_going_back else None
                return job.to(State.RUNNING, evidence=dict(outcome.evidence), attempts=0, error=why_back)
            case Kind.WAIT:
                return job.to(
                    State.WAITING,
                    blocked_on=outcome.blocked_on,
                    evidence=dict(outcome.evidence),
                    operations=outcome.operations,
                )
            case Kind.RETRY:
                return job._retry(outcome, now)
            case Kind.FAILED:
                assert outcome.error  # noqa: S101 - Outcome.failed always carries one
                return job._fail(outcome.error, now)

    def _advance(self, now: datetime) -> "Job":
        following = ITINERARIES[self.itinerary].after(self.step)
        fresh = replace(self, evidence={}, attempts=0, error=self.error if self.is_going_back else None)
        if following:
            return fresh.to(State.RUNNING, step=following.name)
        if self.is_undoing or self.itinerary == BRING_BACK.name:
            return fresh.to(State.CANCELLED, finished_at=now)
        if self.is_giving_back:
            return fresh._given_back(now)
        return fresh.to(State.DONE, finished_at=now)

    def _turn_forward(self) -> "Job":
        """Go on behind the commit point."""
        commit = next(step for step in self.forward.steps if step.commit)
        following = self.forward.after(commit.name)
        assert following  # noqa: S101 - no itinerary ends with its commit point
        at = replace(self, itinerary=self.forward.name, step=following.name, undo_then="", reached="", error=None)
        return at.to(State.RUNNING, evidence={}, attempts=0)

    def _given_back(self, now: datetime) -> "Job":
        """The source runs as before: go on by itself after a fault, or wait for a person after a permanent error."""
        at = replace(self, itinerary=self.forward.name, step=self._resume_step(), undo_then="").without("down_at")
        if self.move.method.stops_first or self.facts.get("no_refresh"):
            # The source has run since the copy was made, and no refresh follows: what is there is out of date.
            at = replace(at, facts={**at.facts, "whole_from": self.facts.get("next_pass", 0)})
        if self.undo_then == "resume":
            return at.to(State.RUNNING, give_backs=self.give_backs + 1)
        return at.to(State.PARKED, finished_at=now)

    def without(self, fact: str) -> "Job":
        """The job with one fact forgotten."""
        return replace(self, facts={name: value for name, value in self.facts.items() if name != fact})

    def _resume_step(self) -> str:
        takes_volumes = self.move.volumes and not self.move.is_of_volume
        resume_at = (RESUME_AT_WITH_VOLUMES if takes_volumes else RESUME_AT)[self.move.method]
        return resume_at if self.forward.index(self.reached) > self.forward.index(resume_at) else self.reached

    def _retry(self, outcome: Outcome, now: datetime) -> "Job":
        down_too_long = self.down_at is not None and now - self.down_at > GIVE_BACK_AFTER
        if (down_too_long or outcome.turns_back) and not self.is_committed and not self.is_going_back:
            then = "resume" if self.give_backs < MAX_GIVE_BACKS else "park"
            return self._turn_back(GIVE_BACKS[self.move.method], then=then, error=outcome.error)
        return self.to(
            State.WAITING,
            blocked_on=outcome.blocked_on,
            error=(self.error or outcome.error) if self.is_going_back else outcome.error,
            attempts=self.attempts + 1,
            total_attempts=self.total_attempts + 1,
            operations=(),
        )

    def _fail(self, error: JobError, now: datetime) -> "Job":
        counted = replace(self, error=error, total_attempts=self.total_attempts + 1)
        if self.is_committed or self.is_going_back or self.phase is Phase.PREFLIGHT:
            return counted.to(State.PARKED, finished_at=now)
        return counted._turn_back(GIVE_BACKS[self.move.method], then="park", error=error)

    def _turn_back(self, way: Itinerary, *, then: str, error: JobError | None) -> "Job":
        return self.to(
            State.RUNNING,
            itinerary=way.name,
            step=way.steps[0].name,
            reached=self.reached if self.is_going_back else self.step,
            undo_then=then,
            error=error,
            attempts=0,
            # The evidence stays: the way back must find the operations to cancel.
        )

    def cancelled(self) -> "Job":
        """Turned onto the way back that leaves nothing. Raises ValueError after the commit point."""
        if self.is_committed:
            raise ValueError(f"job {self.id} is past its commit point and only goes forward")
        if self.is_undoing and not self.has_ended:
            return self
        way = UNDOS[self.move.method]
        if self.state is State.PARKED:
            queued = self.to(State.QUEUED, finished_at=None)
            reached = self.reached if self.is_going_back else self.step
            return replace(queued, itinerary=way.name, step=way.steps[0].name, reached=reached, attempts=0)
        return self._turn_back(way, then="", error=self.error)

    def brought_back(self) -> "Job":
        """Turned onto the way back from behind the commit point. Raises ValueError for a job that is not there."""
        if self.move.is_copy:
            raise ValueError(f"job {self.id} is a copy: its source has never stopped")
        if self.move.is_of_volume:
            raise ValueError(f"job {self.id} moves a volume, which is not brought back; move it once more")
        if not self.is_committed or self.state not in (State.DONE, State.PARKED):
            raise ValueError(f"job {self.id} is {self.state} and before its commit point")
        first = BRING_BACK.steps[0].name
        reached = self.reached if self.is_going_back else self.step
        at = replace(self, itinerary=BRING_BACK.name, step=first, reached=reached, evidence={}, attempts=0, error=None)
        return at.to(State.QUEUED, finished_at=None)

    def retried(self) -> "Job":
        """Queued again: after a cancel from the beginning, otherwise from its checkpoint."""
        at = replace(self, attempts=0, give_backs=0, finished_at=None, error=None)
        if self.is_giving_back:
            at = replace(at, undo_then="resume")
        if self.state is State.CANCELLED:
            first = self.forward.steps[0].name
            at = replace(at, itinerary=self.forward.name, step=first, evidence={}, facts={}, passes=())
        return at.to(State.QUEUED)
