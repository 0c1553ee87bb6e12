"""When a policy is due, on nights on which the clocks change too."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from common.domain.backup import Schedule
from producer.schedule import check, due_after, newest_due

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


def moments(when: str, around: date, zone: str = "Europe/Berlin") -> list[datetime]:
    """All due moments from two days before to two days after, in local time."""
    first = datetime(around.year, around.month, around.day, tzinfo=UTC) - timedelta(days=2)
    found, schedule = [due_after(Schedule(when=when, zone=zone), first)], Schedule(when=when, zone=zone)
    while found[-1] < first + timedelta(days=4):
        found.append(due_after(schedule, found[-1]))
    return [each.astimezone(BERLIN) for each in found[:-1]]


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
