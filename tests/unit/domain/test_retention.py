"""What is kept of many backups, and why."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.retention import Retention, retain

NIGHTS = [datetime(2026, 1, 1, 2, tzinfo=UTC) + timedelta(days=day) for day in range(400)]
GFS = Retention(last=2, daily=7, weekly=4, monthly=6, yearly=2)

moments = st.lists(
    st.integers(0, 600_000).map(lambda minutes: NIGHTS[0] + timedelta(minutes=minutes)), max_size=60, unique=True
)
retentions = st.builds(Retention, **{rule: st.integers(0, 5) for rule in vars(Retention())})


def days(found: tuple[datetime, ...] | list[datetime]) -> list[str]:
    return [moment.date().isoformat() for moment in found]


def test_grandfather_father_son() -> None:
    """Seven days, then the Sundays, which end ISO weeks, then the ends of months, and of the year before."""
    kept = list(retain(NIGHTS, GFS).keep)
    assert days(kept) == [
        *("2027-02-04", "2027-02-03", "2027-02-02", "2027-02-01", "2027-01-31", "2027-01-30", "2027-01-29"),
        *("2027-01-24", "2027-01-17"),
        *("2026-12-31", "2026-11-30", "2026-10-31", "2026-09-30"),
    ]


def test_each_that_stays_tells_why() -> None:
    keep = retain(NIGHTS, GFS).keep
    assert keep[NIGHTS[-1]] == (*("last 1 of 2", "daily 1 of 7", "weekly 1 of 4", "monthly 1 of 6", "yearly 1 of 2"),)
    assert keep[datetime(2026, 12, 31, 2, tzinfo=UTC)] == ("monthly 3 of 6", "yearly 2 of 2")


def test_no_rule_keeps_everything() -> None:
    assert retain(NIGHTS, Retention()).remove == ()


def test_a_pause_removes_nothing_that_would_have_stayed() -> None:
    """A server that was away for a month still has its seven days."""
    late = [*NIGHTS[:100], NIGHTS[130]]
    assert days(list(retain(late, Retention(daily=3)).keep)) == days([NIGHTS[130], NIGHTS[99], NIGHTS[98]])


@pytest.mark.parametrize(
    ("zone", "left"),
    [pytest.param("UTC", 1, id="one day in UTC"), pytest.param("Europe/Berlin", 2, id="two in Berlin")],
)
def test_days_are_those_of_the_time_zone(zone: str, left: int) -> None:
    around_midnight = [datetime(2026, 6, 1, hour, 30, tzinfo=UTC) for hour in (21, 22)]
    assert len(retain(around_midnight, Retention(daily=5), zone).keep) == left


def test_the_hour_that_comes_twice_is_two() -> None:
    """Summer time ends in Berlin on 2026-10-25 at 01:00 UTC."""
    twice = [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)]
    assert {moment.astimezone(ZoneInfo("Europe/Berlin")).hour for moment in twice} == {2}
    assert retain(twice, Retention(hourly=2), "Europe/Berlin").remove == ()


@given(moments, retentions)
def test_each_goes_or_stays_and_the_newest_stays(backups: list[datetime], retention: Retention) -> None:
    kept = retain(backups, retention)
    assert sorted([*kept.keep, *kept.remove]) == sorted(backups)
    assert not backups or max(backups) in kept.keep
    assert all(kept.keep.values())


@given(moments, retentions)
def test_to_decide_again_changes_nothing(backups: list[datetime], retention: Retention) -> None:
    """What goes does not matter to what stays: a prune that broke off is simply made again."""
    kept = retain(backups, retention)
    assert retain(kept.keep, retention).remove == ()


@given(moments, retentions, retentions)
def test_a_rule_more_never_removes_more(backups: list[datetime], some: Retention, more: Retention) -> None:
    both = Retention(**{rule: max(count, vars(more)[rule]) for rule, count in vars(some).items()})
    if some != Retention():
        assert set(retain(backups, some).keep) <= set(retain(backups, both).keep)
