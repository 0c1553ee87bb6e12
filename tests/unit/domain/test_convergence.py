"""Convergence: pass again or cut over, decided on how long the passes took."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.convergence import MAX_PASSES, decide

BUDGET = timedelta(seconds=2)

STORIES = [
    ("an idle instance: even the full pass fits", [1.0], False, "within the downtime budget of 2.0 s"),
    ("exactly the budget fits", [2.0], False, "within the downtime budget"),
    ("a long full pass is followed by a refresh", [60.0], True, "60.0 s, more than the downtime budget"),
    ("the first refresh may be as long as the full pass", [60.0, 60.0], True, "more than the downtime budget"),
    ("shrinking passes go on", [60.0, 20.0, 6.0], True, "6.0 s, more than"),
    ("until the rest fits", [60.0, 20.0, 6.0, 1.9], False, "1.9 s, within"),
    ("a writer that keeps up with us", [60.0, 20.0, 19.0], False, "passes stopped shrinking at 19.0 s"),
    ("a writer that is faster than us", [60.0, 20.0, 25.0], False, "stopped shrinking"),
    ("a fifth less is just shrinking", [60.0, 20.0, 16.0], True, "more than"),
    ("enough is enough", [60.0 * 0.75**n for n in range(MAX_PASSES)], False, "10 passes are enough"),
]


@pytest.mark.parametrize(
    ("seconds", "again", "reason"), [story[1:] for story in STORIES], ids=[story[0] for story in STORIES]
)
def test_the_decision_and_its_reason(seconds: list[float], again: bool, reason: str) -> None:
    """Passes go on as long as they are over the budget and shrink; the operator reads why they ended."""
    decision = decide([timedelta(seconds=s) for s in seconds], BUDGET)
    assert decision.again is again
    assert reason in decision.reason


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=30), st.floats(0.01, 1e5))
def test_it_always_comes_to_an_end(seconds: list[float], budget: float) -> None:
    """Whatever the writer does, no move makes more than ten passes, and one within the budget is the last."""
    took = [timedelta(seconds=s) for s in seconds]
    decision = decide(took, timedelta(seconds=budget))
    if len(took) >= MAX_PASSES or took[-1] <= timedelta(seconds=budget):
        assert not decision.again
