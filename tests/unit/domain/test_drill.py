"""What a drill leaves on a generation, and what its clone is called."""

from datetime import timedelta

import pytest

from common.domain.drill import BACKUP_DRILL, Drill, clone_name, newest
from common.domain.generation import Generation
from tests.builders import NOW, a_generation, an_order

DRILL = Drill(at=NOW, generation="web1-57ef-20260101-000000", succeeded=True, running_after=0.42)
FAILED = Drill(at=NOW + timedelta(days=1), generation="g", succeeded=False, reason="false: exit code 1")


@pytest.mark.parametrize("drill", [DRILL, FAILED])
def test_an_outcome_is_found_on_its_generation(drill: Drill) -> None:
    """No database is needed for it."""
    found = Generation.of(a_generation(marks={BACKUP_DRILL: drill.to_text()}), "s2")
    assert found is not None
    assert found.drill == drill


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 1}', '{"at": "2026-01-01T00:00:00+00:00", "other": 1}'])
def test_what_somebody_else_wrote_is_no_outcome(text: str) -> None:
    assert Drill.read(text) is None


def test_the_newest_outcome_counts() -> None:
    assert newest([DRILL, None, FAILED]) == FAILED
    assert newest([None]) is None


def test_an_outcome_tells_itself_and_why_it_failed() -> None:
    assert str(DRILL) == f"ok {NOW:%Y-%m-%d %H:%M}, ran after 0.4 s"
    assert str(FAILED).startswith("FAILED")
    assert str(FAILED).endswith("false: exit code 1")


def test_a_clone_has_a_name_that_a_server_takes_and_that_no_other_policy_s_has() -> None:
    long = "an-instance-whose-name-has-all-of-the-63-characters-it-may-have"
    names = {clone_name(an_order(policy=policy).generation_of(f"s1:default/{long}"), "abcdefghij") for policy in "ab"}
    assert len(names) == 2
    for name in names:
        assert len(name) <= 63
        assert name.replace("-", "").isalnum()
        assert name.endswith("-drill-abcdefghij")
