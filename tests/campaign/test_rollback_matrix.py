"""The record is a hint: Redis comes back with any older checkpoint, and the job still ends well, without a person."""

import pytest
import redis

from common.domain.itinerary import FORWARD, UNDO, Itinerary
from common.domain.plan import Retire
from tests.campaign.matrix import dies, points, rollbacks

#: Of all pairs of a death and a checkpoint before it, every eighth one.
_STRIDE = 8


@pytest.mark.parametrize("cancels", [False, True], ids=["goes-on", "cancelled"])
@pytest.mark.parametrize("retire", Retire)
@pytest.mark.parametrize("itinerary", [*FORWARD.values(), UNDO], ids=lambda itinerary: itinerary.name)
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
