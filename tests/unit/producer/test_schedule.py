"""When a policy is due, on nights on which the clocks change too."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.backup import Schedule
from producer import schedule as schedules
from producer.schedule import all_due_after, check, due_after, newest_due

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


def moments(when: str, around: date, zone: str = "Europe/Berlin") -> list[datetime]:
    """All due moments from two days before to two days after, in local time."""
    first = datetime(around.year, around.month, around.day, tzinfo=UTC) - timedelta(days=2)
    found = takewhile(lambda due: due < first + timedelta(days=4), all_due_after(Schedule(when=when, zone=zone), first))
    return [each.astimezone(BERLIN) for each in found]


@pytest.mark.parametrize("when", ["30 2 * * *", "02:30", "*-*-* 02:30:00"])
@pytest.mark.parametrize("changes", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_each_night_has_one_run(when: str, changes: date) -> None:
    """In spring there is no 02:30, in autumn there are two."""
    nights = [moment.date() for moment in moments(when, changes)]
    assert nights == sorted(set(nights))
    assert len(nights) == 4
    assert changes in nights


@pytest.mark.parametrize(("when", "changes"), [("0 * * * *", SPRING), ("0 * * * *", AUTUMN), ("hourly", SPRING)])
def test_each_hour_has_one_run(when: str, changes: date) -> None:
    found = [moment.astimezone(UTC) for moment in moments(when, changes)]
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


def test_words_and_weekdays() -> None:
    """2026-11-20 is a Friday."""
    friday = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert due_after(Schedule(when="Mon..Fri 02:00"), friday) == datetime(2026, 11, 23, 2, tzinfo=UTC)
    assert due_after(Schedule(when="daily"), friday) == datetime(2026, 11, 21, tzinfo=UTC)
    assert due_after(Schedule(when="0 4 * * sun"), friday) == datetime(2026, 11, 22, 4, tzinfo=UTC)


def test_of_many_missed_moments_the_newest_counts() -> None:
    since, now = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 20, 1, tzinfo=UTC)
    assert newest_due(Schedule(when="0 2 * * *"), since, now) == datetime(2026, 11, 19, 2, tzinfo=UTC)
    assert newest_due(Schedule(when="0 2 * * *"), now, now + timedelta(minutes=59)) is None


@given(
    when=st.sampled_from(["30 2 * * *", "02:30", "*/20 1-3 * * *", "hourly", "0 0 1 * *", "Sun 02:00..03:30/30"]),
    now=st.integers(0, 14 * 24 * 60),
    away=st.integers(0, 40 * 24 * 60),
    around=st.sampled_from([SPRING, AUTUMN]),
)
@settings(max_examples=25, deadline=None)
def test_the_newest_is_the_last_of_all_that_were_missed(when: str, now: int, away: int, around: date) -> None:
    schedule = Schedule(when=when, zone="Europe/Berlin")
    moment = datetime(around.year, around.month, around.day, tzinfo=UTC) + timedelta(days=-7, minutes=now)
    since = moment - timedelta(minutes=away)
    missed = list(takewhile(lambda due: due <= moment, all_due_after(schedule, since)))
    assert newest_due(schedule, since, moment) == (missed[-1] if missed else None)


def test_a_year_of_missed_seconds_is_not_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(schedule: Schedule, moment: datetime) -> datetime | None:
        asked.append(moment)
        return due_after(schedule, moment)

    monkeypatch.setattr(schedules, "due_after", counted)
    now = datetime(2026, 11, 20, 1, tzinfo=UTC)
    assert newest_due(Schedule(when="*:*:*"), now - timedelta(days=365), now) == now
    assert len(asked) < 100


def test_a_date_that_has_passed_is_not_due_again() -> None:
    schedule = Schedule(when="2026-12-01 02:00")
    check(schedule)
    due, later = datetime(2026, 12, 1, 2, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert due_after(schedule, due) is None
    assert newest_due(schedule, due - timedelta(days=1), later) == due
    assert newest_due(schedule, due, later) is None


@pytest.mark.parametrize("when", ["hourly", "0 2,3 * * *", "0 * * * *"])
def test_a_jitter_that_would_skip_runs_is_refused(when: str) -> None:
    check(Schedule(when=when, jitter=timedelta(minutes=59)))
    with pytest.raises(ValueError, match="two are only 1:00:00 apart"):
        check(Schedule(when=when, jitter=timedelta(minutes=60)))


@pytest.mark.parametrize(
    ("when", "zone", "words"),
    [
        ("61 2 * * *", "UTC", "no schedule"),
        ("now and then", "UTC", "no schedule"),
        ("0 0 30 2 *", "UTC", "no schedule"),
        ("2020-01-01", "UTC", "never due"),
        ("daily", "Europe/Atlantis", "no time zone"),
    ],
)
def test_what_cannot_be_understood_is_told(when: str, zone: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check(Schedule(when=when, zone=zone))
