"""Kill a worker at any point of any step of any way: another one finishes, and the servers show nothing of it."""

from functools import cache

import pytest
import redis

from common.domain.itinerary import COLD, DRILL, ITINERARIES, REFRESH, WARM, Itinerary
from common.domain.job import State
from common.domain.plan import Mode
from tests.campaign.matrix import PLAYED, Point, cancels, dies, points, stalls

MATRIX = [
    pytest.param(itinerary, step.name, id=f"{itinerary.name}-{step.name}")
    for itinerary in PLAYED
    for step in itinerary.steps
]


@cache
def _points(pool: redis.ConnectionPool, name: str) -> list[Point]:
    return points(pool, ITINERARIES[name])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("itinerary", "step"), MATRIX)
def test_a_worker_that_dies_anywhere_in_a_step_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary, step: str
) -> None:
    """Before it, after each of its requests, after its effect and before the checkpoint, and after that."""
    meant = [point for point in _points(pool, itinerary.name) if point.step == step]
    assert {"before", "checkpoint", "after"} <= {point.when for point in meant}
    wrong = [line for point in meant for line in dies(pool, itinerary, point)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", [Mode.PUSH, Mode.RELAY])
@pytest.mark.parametrize("itinerary", [WARM, COLD, REFRESH], ids=lambda itinerary: itinerary.name)
def test_a_worker_that_dies_anywhere_in_a_pushed_or_relayed_pass_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary, mode: Mode
) -> None:
    """Between the two requests too, after which the target waits in vain; what a worker relays dies with it."""
    passes = [step.name for step in itinerary.steps if step.name.endswith(("_pass", "_passes", "refresh_copy"))]
    meant = [point for point in points(pool, itinerary, mode=mode) if point.step in passes]
    assert {point.step for point in meant} == set(passes)
    wrong = [line for point in meant for line in dies(pool, itinerary, point, mode=mode)]
    assert wrong == [], "\n".join(wrong)


def test_a_worker_that_dies_anywhere_in_a_drill_that_fails_leaves_the_verdict_and_nothing_else(
    pool: redis.ConnectionPool,
) -> None:
    """The generation tells of it, the job is parked with the reason, and the clone is gone: every third place."""
    meant = points(pool, DRILL, proof="false")[::3]
    wrong = [line for point in meant for line in dies(pool, DRILL, point, proof="false")]
    assert wrong == [], "\n".join(wrong)


def test_a_refresh_that_is_cancelled_anywhere_puts_its_copy_back(pool: redis.ConnectionPool) -> None:
    """Or ends if it was past its commit point; also if the worker dies in the same moment."""
    ends = [cancels(pool, REFRESH, point, dies=dies) for point in _points(pool, REFRESH.name) for dies in (False, True)]
    assert [line for violations, _ in ends for line in violations] == []
    assert {state for _, state in ends} == {State.DONE, State.CANCELLED}


@pytest.mark.exhaustive
@pytest.mark.parametrize("itinerary", PLAYED, ids=lambda itinerary: itinerary.name)
def test_a_worker_that_is_held_up_anywhere_keeps_its_job(pool: redis.ConnectionPool, itinerary: Itinerary) -> None:
    """A request that takes longer than a lease, and a second wake-up meanwhile: every fourth place."""
    meant = _points(pool, itinerary.name)[::4]
    wrong = [line for point in meant for line in stalls(pool, itinerary, point)]
    assert wrong == [], "\n".join(wrong)
