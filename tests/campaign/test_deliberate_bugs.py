"""The campaign would be worth nothing if it did not notice: each deliberate bug is caught, and only by its presence."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis

from common.domain.itinerary import WARM
from tests.campaign.bugs import BUGS
from tests.campaign.matrix import dies, points, stalls
from tests.campaign.scenario import draw
from tests.campaign.trial import run

#: A bug that neither so many trials nor the crash matrix notice is not noticed.
_TRIALS = 40
#: Bugs that the crash matrix notices long before random trials do, at this step. It is only looked at first.
_AT_STEP = {
    "checkpoint_before_effect": "hand_over",
    "lease_not_renewed": "check_source",
    "post_is_retried": "hand_over",
}

Bug = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_deliberate_bug_is_caught(pool: redis.ConnectionPool, bug: Bug) -> None:
    """Some trial, or a worker at some point, breaks a promise with the bug and keeps all of them without it."""
    first = _by_the_matrix(pool, bug, _AT_STEP[bug.__name__]) if bug.__name__ in _AT_STEP else ""
    caught = first or _by_the_campaign(pool, bug) or _by_the_matrix(pool, bug)
    assert caught, f"{_TRIALS} trials and the crash matrix have not noticed {bug.__name__}"
    print(f"{bug.__name__}: caught by {caught}")


def _by_the_campaign(pool: redis.ConnectionPool, bug: Bug) -> str:
    for seed in range(_TRIALS):
        with bug():
            caught = run(draw(seed), pool).violations
        if caught and not run(draw(seed), pool).violations:
            return f"seed {seed}: {caught[0]}"
    return ""


def _by_the_matrix(pool: redis.ConnectionPool, bug: Bug, step: str = "") -> str:
    """That all is well without the bug is told by ``test_crash_matrix``."""
    with bug():
        for point in points(pool, WARM):
            caught = step in ("", point.step) and (stalls(pool, WARM, point) or dies(pool, WARM, point))
            if caught:
                return caught[0]
    return ""
