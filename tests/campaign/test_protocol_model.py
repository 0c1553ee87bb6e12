"""No interleaving of two workers, late requests, lost records, cancels and foreign starts breaks the guard's rules."""

from dataclasses import replace

import pytest

from tests.campaign.protocol import BACK, DONE, Rules, explore


def test_no_interleaving_lets_both_run_or_loses_data() -> None:
    """Every state that can be reached is looked at; both ends are among them."""
    explored = explore(Rules())
    print(f"{explored.states} states")
    assert explored.way == (), f"{explored.rule}: {' / '.join(explored.way)}"
    assert {DONE, BACK} <= explored.ends
    assert explored.states > 1000


@pytest.mark.parametrize("without", ["etag", "seal_is_final", "copy_is_guarded"])
def test_each_rule_of_the_protocol_is_needed(without: str) -> None:
    """The model can fail: without any one of them there is a way to break it."""
    explored = explore(replace(Rules(), **{without: False}))
    print(f"without {without}: {explored.rule}: {' / '.join(explored.way)}")
    assert explored.rule
