"""The campaign would be worth nothing if it did not notice: each deliberate bug is caught, and only by its presence."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import redis

from tests.campaign.bugs import BUGS
from tests.campaign.scenario import draw
from tests.campaign.trial import run

#: A bug that so many trials do not notice is not noticed.
_TRIALS = 150


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_deliberate_bug_is_caught(
    pool: redis.ConnectionPool, bug: Callable[[], AbstractContextManager[None]]
) -> None:
    """Some trial breaks a promise with the bug and keeps all of them without it."""
    for seed in range(_TRIALS):
        with bug():
            caught = run(draw(seed), pool).violations
        if caught and not run(draw(seed), pool).violations:
            print(f"{bug.__name__}: caught by seed {seed}: {caught[0]}")
            return
    pytest.fail(f"{_TRIALS} trials have not noticed {bug.__name__}")
