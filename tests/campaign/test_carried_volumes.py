"""Volumes that go as backups, to a server that crashes when it is sent one: whoever dies, and it is never sent one."""

from functools import cache

import pytest
import redis

from common.domain.itinerary import ITINERARIES, VOLUME_MOVE, VOLUME_REFRESH, WITH_VOLUMES, Itinerary
from common.domain.job import State
from common.domain.plan import Method, Retire
from tests.campaign.matrix import Point, cancels, dies, points, rollbacks, stalls

INCUS = "incus"
WARM, COPY = WITH_VOLUMES[Method.WARM], WITH_VOLUMES[Method.COPY]
WAYS = (WARM, COPY, VOLUME_MOVE, VOLUME_REFRESH)
PARTS = 6
#: Where volumes are carried, or what was left of that goes.
STEPS = frozenset({"final_volumes", "copy_volumes", "send_volume", "verify_volume", "release_volumes"})


@cache
def _points(pool: redis.ConnectionPool, name: str) -> list[Point]:
    return [each for each in points(pool, ITINERARIES[name], product=INCUS) if each.step in STEPS]


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("itinerary", WAYS, ids=lambda itinerary: itinerary.name)
def test_a_worker_that_dies_while_volumes_are_carried_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary, part: int
) -> None:
    """At every sixth point, from this one on; nothing is left over on either server."""
    meant = _points(pool, itinerary.name)[part::PARTS]
    assert meant
    wrong = [line for point in meant for line in dies(pool, itinerary, point, Retire.DELETE, product=INCUS)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("itinerary", [WARM, VOLUME_REFRESH], ids=lambda itinerary: itinerary.name)
def test_one_that_is_cancelled_while_volumes_are_carried_leaves_all_as_it_was(
    pool: redis.ConnectionPool, itinerary: Itinerary, part: int
) -> None:
    """Or ends, if it was past its commit point; whether the worker that heard of it dies, as every second one does."""
    meant = _points(pool, itinerary.name)[part::PARTS]
    ends = [cancels(pool, itinerary, point, dies=number % 2 == 1, product=INCUS) for number, point in enumerate(meant)]
    assert [line for violations, _ in ends for line in violations] == []
    assert State.CANCELLED in {state for _, state in ends}


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
def test_a_worker_that_sleeps_while_volumes_are_carried_harms_nothing(pool: redis.ConnectionPool, part: int) -> None:
    """Another one goes on meanwhile."""
    wrong = [
        line for point in _points(pool, WARM.name)[part::PARTS] for line in stalls(pool, WARM, point, product=INCUS)
    ]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("itinerary", [WARM, VOLUME_MOVE], ids=lambda itinerary: itinerary.name)
def test_a_redis_that_forgets_while_volumes_are_carried_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary, part: int
) -> None:
    """With its worker it dies before a checkpoint, and comes back as it was some checkpoints before."""
    known = points(pool, itinerary, product=INCUS)
    pairs = [(last, first) for last, first in rollbacks(known) if last.step in STEPS][part :: 4 * PARTS]
    wrong = [line for last, first in pairs for line in dies(pool, itinerary, last, back_to=first, product=INCUS)]
    assert wrong == [], "\n".join(wrong)
