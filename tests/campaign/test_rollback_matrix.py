"""The record is a hint: Redis comes back with any older checkpoint, and the job still ends well, without a person."""

import pytest
import redis

from common.domain.itinerary import BACKUP, COLD, COPY, DRILL, REFRESH, UNDO, UNDO_VOLUME, VOLUME_WAYS, WARM, Itinerary
from common.domain.plan import Retire
from tests.campaign.matrix import dies, forgets, points, rollbacks

#: Of all pairs of a death and a checkpoint before it, every eighth one.
_STRIDE = 8
_BETWEEN_SERVERS = (WARM, COLD, COPY, REFRESH, BACKUP, DRILL, *VOLUME_WAYS.values())


@pytest.mark.exhaustive
@pytest.mark.parametrize("cancels", [False, True], ids=["goes-on", "cancelled"])
@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("itinerary", [*_BETWEEN_SERVERS, UNDO, UNDO_VOLUME], ids=lambda itinerary: itinerary.name)
def test_an_older_record_leads_to_the_same_end(
    pool: redis.ConnectionPool, itinerary: Itinerary, retire: Retire, *, cancels: bool
) -> None:
    """An effect has happened, its checkpoint and as many as you like before it are lost; then somebody may cancel."""
    pairs = list(rollbacks(points(pool, itinerary, retire)))[::_STRIDE]
    assert pairs
    wrong = [
        line for last, first in pairs for line in dies(pool, itinerary, last, retire, back_to=first, cancels=cancels)
    ]
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("itinerary", _BETWEEN_SERVERS, ids=lambda itinerary: itinerary.name)
def test_a_cancel_that_was_carried_out_and_is_forgotten_is_as_if_nobody_had_cancelled(
    pool: redis.ConnectionPool, itinerary: Itinerary
) -> None:
    """At each checkpoint before the commit point: what was undone is done again."""
    commit = next(itinerary.index(step.name) for step in itinerary.steps if step.commit)
    known = [p for p in points(pool, itinerary) if p.when == "after" and itinerary.index(p.step) <= commit]
    assert known
    wrong = [line for point in known for line in forgets(pool, itinerary, point)]
    assert wrong == [], "\n".join(wrong)
