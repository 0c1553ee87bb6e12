"""Volumes that go as backups, to a server that crashes when it is sent one: whoever dies, and it is never sent one."""

from functools import cache

import pytest
import redis

from common.domain.itinerary import ITINERARIES, VOLUME_MOVE, VOLUME_REFRESH, WITH_VOLUMES, Itinerary
from common.domain.job import State
from common.domain.plan import Method, Retire
from tests.campaign.matrix import Point, cancels, dies, points, stalls

INCUS = "incus"
WARM, COPY = WITH_VOLUMES[Method.WARM], WITH_VOLUMES[Method.COPY]
WAYS = (WARM, COPY, VOLUME_MOVE, VOLUME_REFRESH)
#: Where volumes are carried, or what was left of that goes.
STEPS = frozenset({"final_volumes", "copy_volumes", "send_volume", "verify_volume", "release_volumes"})


@cache
def _points(pool: redis.ConnectionPool, name: str) -> list[Point]:
    return [each for each in points(pool, ITINERARIES[name], product=INCUS) if each.step in STEPS]


@pytest.mark.parametrize("itinerary", WAYS, ids=lambda itinerary: itinerary.name)
def test_a_worker_that_dies_while_volumes_are_carried_harms_nothing(
    pool: redis.ConnectionPool, itinerary: Itinerary
) -> None:
    """At every second point of every other way; none is left over on either server."""
    meant = _points(pool, itinerary.name)[:: 1 if itinerary is WARM else 2]
    assert meant
    wrong = [line for point in meant for line in dies(pool, itinerary, point, Retire.DELETE, product=INCUS)]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("itinerary", [WARM, VOLUME_REFRESH], ids=lambda itinerary: itinerary.name)
def test_one_that_is_cancelled_while_volumes_are_carried_leaves_all_as_it_was(
    pool: redis.ConnectionPool, itinerary: Itinerary
) -> None:
    """Or ends, if it was past its commit point."""
    meant = _points(pool, itinerary.name)[::3]
    ends = [cancels(pool, itinerary, point, dies=number % 2 == 1, product=INCUS) for number, point in enumerate(meant)]
    assert [line for violations, _ in ends for line in violations] == []
    assert State.CANCELLED in {state for _, state in ends}


def test_a_worker_that_sleeps_while_volumes_are_carried_harms_nothing(pool: redis.ConnectionPool) -> None:
    """Another one goes on meanwhile."""
    wrong = [line for point in _points(pool, WARM.name)[::3] for line in stalls(pool, WARM, point, product=INCUS)]
    assert wrong == [], "\n".join(wrong)
