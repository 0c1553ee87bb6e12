"""Kill a worker at any point of any step of any way: another one finishes, and the servers show nothing of it."""

from functools import cache

import pytest
import redis

from common.domain.itinerary import COLD, ITINERARIES, WARM, Itinerary
from common.domain.plan import Mode
from tests.campaign.matrix import Point, dies, points, stalls

MATRIX = [
    pytest.param(itinerary, step.name, id=f"{itinerary.name}-{step.name}")
    for itinerary in ITINERARIES.values()
    for step in itinerary.steps
]


@cache
def _points(pool: redis.ConnectionPool, name: str) -> list[Point]:
    return points(pool, ITINERARIES[name])


@pytest.mark.parametrize(("itinerary", "step"), MATRIX)
def test_a_worker_that_dies_anywhere_in_a_step_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary, step: str
) -> None:
    """Before it, after each of its requests, after its effect and before the checkpoint, and after that."""
    meant = [point for point in _points(pool, itinerary.name) if point.step == step]
    assert {"before", "checkpoint", "after"} <= {point.when for point in meant}
    wrong = [line for point in meant for line in dies(pool, itinerary, point)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("itinerary", [WARM, COLD], ids=lambda itinerary: itinerary.name)
def test_a_worker_that_dies_anywhere_in_a_pushed_pass_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary
) -> None:
    """Between the two requests too, after which the target waits in vain."""
    passes = [step.name for step in itinerary.steps if step.name.endswith(("_pass", "_passes"))]
    meant = [point for point in points(pool, itinerary, mode=Mode.PUSH) if point.step in passes]
    assert {point.step for point in meant} == set(passes)
    wrong = [line for point in meant for line in dies(pool, itinerary, point, mode=Mode.PUSH)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("itinerary", ITINERARIES.values(), ids=lambda itinerary: itinerary.name)
def test_a_worker_that_is_held_up_anywhere_keeps_its_job(pool: redis.ConnectionPool, itinerary: Itinerary) -> None:
    """A request that takes longer than a lease, and a second wake-up meanwhile: every fourth place."""
    meant = _points(pool, itinerary.name)[::4]
    wrong = [line for point in meant for line in stalls(pool, itinerary, point)]
    assert wrong == [], "\n".join(wrong)
