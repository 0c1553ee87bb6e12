"""The crash matrix: a worker dies around every step of every way that a job can go; another one finishes it.

Before the step it had done nothing; after the step its outcome is lost with it; after the checkpoint only the worker
is. Every time the way is gone to its end, in order, and every checkpoint is written exactly once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from common.domain.errors import ServerUnreachable, StopRefused
from common.domain.itinerary import COLD, COPY, GIVE_BACK, UNDO, WARM, Itinerary
from common.domain.job import GIVE_BACK_AFTER, Outcome, State
from common.domain.plan import Method
from producer import control
from tests.builders import a_move, a_plan
from tests.integration.conftest import stored
from tests.integration.stage import DyingStore, Killed, Part, Stage
from workers.steps.context import Context

JOB = "p1-1"


def names(itinerary: Itinerary) -> list[str]:
    """Its steps by name."""
    return [step.name for step in itinerary.steps]


@dataclass(frozen=True)
class Way:
    """One way that a job can go: the steps that it runs, how it ends, and the part of a step that sends it there."""

    name: str
    method: Method
    steps: list[str]
    ends: State
    sent_by: str = ""
    part: Callable[[Stage], Part] | None = None


def cancel(stage: Stage) -> Part:
    """A person cancels when the source is down already."""

    def part(_: Context) -> Outcome:
        control.cancel(JOB, stage.store)
        return Outcome.completed()

    return part


def refuse(_: Stage) -> Part:
    """A verdict when the source is down already."""

    def part(_: Context) -> Outcome:
        raise StopRefused("no")

    return part


def lose_the_target(stage: Stage) -> Part:
    """A fault that lasts for too long while the instance is down: the job gives back and goes forward again."""

    def part(_: Context) -> Outcome:
        stage.clock.advance(GIVE_BACK_AFTER + timedelta(seconds=1))
        raise ServerUnreachable("s2 does not answer")

    return part


UP_TO_FINAL_PASS = names(WARM)[: WARM.index("final_pass") + 1]
UP_TO_HAND_OVER = names(WARM)[: WARM.index("hand_over") + 1]
WAYS = [
    Way("warm", Method.WARM, names(WARM), State.DONE),
    Way("cold", Method.COLD, names(COLD), State.DONE),
    Way("copy", Method.COPY, names(COPY), State.DONE),
    Way("cancelled", Method.WARM, UP_TO_FINAL_PASS + names(UNDO), State.CANCELLED, "final_pass", cancel),
    Way("refused", Method.WARM, UP_TO_HAND_OVER + names(GIVE_BACK), State.PARKED, "hand_over", refuse),
    Way(
        "given back",
        Method.WARM,
        UP_TO_FINAL_PASS + names(GIVE_BACK) + names(WARM)[WARM.index("refresh_passes") :],
        State.DONE,
        "final_pass",
        lose_the_target,
    ),
]
#: The step whose part sends the job onto its way plays that part and does not die.
MATRIX = [
    pytest.param(way, step, id=f"{way.name}-{step}")
    for way in WAYS
    for step in dict.fromkeys(way.steps)
    if step != way.sent_by
]


def begun(stage: Stage, way: Way) -> None:
    """The job, submitted and about to go this way."""
    stored(a_plan(a_move(method=way.method)), stage.store)
    if way.part:
        stage.steps.parts[way.sent_by] = [way.part(stage)]


def dies_in(stage: Stage, step: str, *, effect_first: bool) -> None:
    """Let the first run of a step kill its worker, before or after it has reached its goal."""

    def part(ctx: Context) -> Outcome:
        if effect_first:
            stage.steps.complete(step, ctx)
        raise Killed

    stage.steps.parts[step] = [part]


def survives(stage: Stage, way: Way) -> None:
    """Other workers, after the lease, bring the job to its end; and nothing has been checkpointed twice."""
    for _ in range(4):
        stage.let_time_pass()
        if stage.play().has_ended:
            break
    job = stage.job()
    assert job.state is way.ends
    ended = {"completed", "failed"} if way.ends is State.PARKED else {"completed"}
    told = [step for step, outcome in stage.told("step", "outcome") if outcome in ended]
    expected = list(way.steps)
    if way.part is lose_the_target:
        expected.remove(way.sent_by)  # its first run ended with a fault
    assert told == expected
    assert stage.store.unfinished() == 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_without_a_death_the_way_is_gone_step_by_step(stage: Stage, way: Way) -> None:
    """The matrix would prove nothing if its ways were not gone at all."""
    begun(stage, way)
    stage.play()
    assert stage.steps.ran == way.steps
    survives(stage, way)


@pytest.mark.parametrize(("way", "step"), MATRIX)
@pytest.mark.parametrize("effect_first", [False, True], ids=["before", "after"])
def test_a_death_in_a_step_repeats_the_step(stage: Stage, way: Way, step: str, effect_first: bool) -> None:
    """The next worker runs it again: it looks at the world, so a second run does no harm."""
    begun(stage, way)
    dies_in(stage, step, effect_first=effect_first)
    with pytest.raises(Killed):
        stage.deliver()
    assert stage.steps.ran[-1] == step
    assert stage.worker().held.snapshot() == []
    survives(stage, way)
    assert stage.steps.ran.count(step) == way.steps.count(step) + 1


@pytest.mark.parametrize(("way", "step"), MATRIX)
def test_a_death_after_the_checkpoint_repeats_nothing(stage: Stage, way: Way, step: str) -> None:
    """Whether the worker was to go on itself or had pushed the next wake-up: the checkpoint is the truth."""
    begun(stage, way)
    with pytest.raises(Killed):
        stage.deliver(stage.worker(DyingStore(stage.store, stage.steps, step)))
    survives(stage, way)
    assert stage.steps.ran == way.steps


@pytest.mark.parametrize(("way", "step"), MATRIX)
def test_a_death_that_also_loses_all_messages_is_survived(stage: Stage, way: Way, step: str) -> None:
    """Redis came back without its last second: what is due is found by the record alone."""
    begun(stage, way)
    with pytest.raises(Killed):
        stage.deliver(stage.worker(DyingStore(stage.store, stage.steps, step)))
    stage.wire.take()
    survives(stage, way)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_death_in_every_step_of_one_job_is_survived(stage: Stage, way: Way) -> None:
    """Each worker gets one step further than the one before it."""
    begun(stage, way)
    dying = set(way.steps) - {way.sent_by}
    for step in dying:
        dies_in(stage, step, effect_first=True)
    deaths = 0
    for _ in range(40):
        try:
            stage.deliver()
        except Killed:
            deaths += 1
        if stage.at_rest():
            break
        stage.let_time_pass()
    assert deaths == len(dying)
    survives(stage, way)
