"""When a policy is due: cron lines and calendar words, in the policy's own time zone.

Cron lines are read by ``cronsim`` (as Debian's cron understands them), calendar words by ``oncalendar`` (as systemd
does). On a night on which the clocks change every time of the wall clock is due exactly once: systemd itself would
leave a time out that does not exist. Only a cron line for every hour counts the hour that comes twice as two.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from oncalendar import OnCalendar, OnCalendarError

from common.domain.backup import Schedule

_FIELDS_OF_CRON = 5
#: No zone has ever put its clocks forward by more.
_LONGEST_GAP = timedelta(hours=3)
#: A schedule that is not due within so long is never due: 29 February comes every eight years at the worst.
_NEVER = timedelta(days=9 * 366)
#: Where the newest due moment is looked for: an outage may have been long, and a schedule may count in seconds.
_BACK = (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), timedelta(days=31), timedelta(days=366))
#: So many runs tell the shortest time between two.
_A_FEW = 60


def check(schedule: Schedule) -> None:
    """Raises ValueError if it cannot be understood, was never due since 2026, or its jitter would skip runs."""
    try:
        ZoneInfo(schedule.zone)
    except (KeyError, ValueError) as error:
        raise ValueError(f"there is no time zone {schedule.zone!r}") from error
    first = due_after(schedule, datetime(2026, 1, 1, tzinfo=UTC))
    if first is None:
        raise ValueError(f"{schedule.when!r} is never due")
    runs = itertools.islice(all_due_after(schedule, first), _A_FEW)
    shortest = min((later - earlier for earlier, later in pairwise(runs)), default=None)
    if shortest is not None and schedule.jitter >= shortest:
        raise ValueError(f"a jitter of {schedule.jitter} skips runs: two are only {shortest} apart")


def due_after(schedule: Schedule, moment: datetime) -> datetime | None:
    """The first due moment after ``moment``, in UTC, without its jitter; None: never again. Raises ValueError."""
    local = moment.astimezone(ZoneInfo(schedule.zone))
    try:
        found = next((each for each in _due(schedule.when, local) if each > moment), None)
    except (CronSimError, OnCalendarError) as error:
        hint = "write a cron line of five fields, or calendar words such as daily, hourly or Mon..Fri 02:00"
        raise ValueError(f"{schedule.when!r} is no schedule ({error}): {hint}") from error
    except OverflowError:
        found = None
    return None if found is None or found - moment > _NEVER else found


def newest_due(schedule: Schedule, since: datetime, now: datetime) -> datetime | None:
    """The last moment after ``since`` at which it was due, up to ``now``; None if it was not."""
    for back in (*_BACK, now - since):
        begin = max(since, now - back)
        found = deque(itertools.takewhile(lambda due: due <= now, all_due_after(schedule, begin)), maxlen=1)
        if found or begin == since:
            return found[0] if found else None
    return None


def all_due_after(schedule: Schedule, moment: datetime) -> Iterator[datetime]:
    """All due moments after ``moment``, as ``due_after`` tells them."""
    while due := due_after(schedule, moment):
        yield due
        moment = due


def _due(when: str, local: datetime) -> Iterator[datetime]:
    """The due moments from some time before ``local`` on, in UTC."""
    if len(when.split()) == _FIELDS_OF_CRON:
        for each in CronSim(when, local):
            yield each.astimezone(UTC)
        return
    # By the wall clock, whose times all exist, from before any gap that the moment may lie behind.
    before = (local.astimezone(UTC) - _LONGEST_GAP).astimezone(local.tzinfo)
    first = local if before.utcoffset() == local.utcoffset() else local - _LONGEST_GAP
    for each in OnCalendar(when, first.replace(tzinfo=UTC)):
        yield each.replace(tzinfo=local.tzinfo).astimezone(UTC)
