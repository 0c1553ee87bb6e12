"""What a run makes is found again by name and by what the target tells of it."""

from datetime import timedelta

import pytest

from common.domain.generation import Generation, is_backup_snapshot, moment_of, origin
from tests.builders import NOW, a_generation, an_order

LONG = "an-instance-whose-name-has-all-of-the-63-characters-it-may-have"


@pytest.mark.parametrize("policy", ["nightly", "every night, all of them & more", "-" * 40])
def test_names_are_ones_that_a_server_takes(policy: str) -> None:
    """63 characters at most, letters, digits and hyphens, and no hyphen at the end."""
    order = an_order(policy=policy)
    for name in (order.staging_of(f"s1:default/{LONG}"), order.generation_of(f"s1:default/{LONG}")):
        assert len(name) <= 63
        assert name.replace("-", "").isalnum()
        assert not name.endswith("-")


def test_what_differs_in_policy_server_project_or_moment_has_another_name() -> None:
    """Many may back up onto one project of one target."""
    sources = [origin("s1", "default", "web"), origin("s2", "default", "web"), origin("s1", "shop", "web")]
    orders = [an_order(), an_order(policy="weekly"), an_order(at=NOW + timedelta(seconds=1))]
    assert len({order.generation_of(source) for order in orders for source in sources}) == 9
    assert len({order.staging_of(source) for order in orders for source in sources}) == 6


def test_a_snapshot_tells_its_moment_to_its_own_policy_only() -> None:
    """A policy whose name begins like another's must not prune what that has made."""
    name = an_order(policy="web-daily").snapshot
    assert moment_of(name, "web-daily") == NOW
    assert moment_of(name, "web") is None
    assert moment_of("monday", "web-daily") is None


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("herder-nightly-20261123-020000", True), ("herder-p1x2y3-4-17", False), ("monday", False)],
)
def test_a_snapshot_of_a_run_is_told_from_one_of_a_job(name: str, *, is_one: bool) -> None:
    """The janitor deletes what jobs have left; what runs have made is the policy's."""
    assert is_backup_snapshot(name) is is_one


@pytest.mark.parametrize("state", ["staging", "making"])
def test_only_what_is_complete_is_a_generation(state: str) -> None:
    """Whatever else its config tells."""
    assert Generation.of(a_generation(state=state), "s2") is None


def test_a_generation_tells_all_about_itself() -> None:
    """Policy, source and moment."""
    found = Generation.of(a_generation(), "s2")
    assert found is not None
    assert (found.policy, found.source, found.instance, found.at) == ("nightly", "s1:default/web1", "web1", NOW)
