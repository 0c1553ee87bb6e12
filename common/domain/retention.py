"""How long generations and snapshots stay: what is kept, what is removed, and why. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many are kept: the newest ``last``, and the newest of each of as many hours, days, ISO weeks, months, years.

    Hours and days are those of the policy's time zone. All 0 keeps everything.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What stays, newest first, each with its reasons; and what goes, newest first."""

    keep: Mapping[datetime, tuple[str, ...]]
    remove: tuple[datetime, ...]


#: Of each rule the period to which a local moment belongs.
_PERIODS: Mapping[str, Callable[[datetime], object]] = {
    # With the offset: the hour that comes twice when summer time ends is two hours.
    "hourly": lambda local: (local.date(), local.hour, local.utcoffset()),
    "daily": datetime.date,
    "weekly": lambda local: local.isocalendar()[:2],
    "monthly": lambda local: (local.year, local.month),
    "yearly": lambda local: local.year,
}


def retain(moments: Iterable[datetime], retention: Retention, zone: str = "UTC") -> Kept:
    """Decide on backups of these moments, which tell their zones; periods are those of the time zone ``zone``.

    Each rule counts periods that have a backup, not those on the calendar: after a pause nothing goes that would have
    stayed without it. The newest stays in any case. Raises ZoneInfoNotFoundError.
    """
    ordered = sorted(set(moments), reverse=True)
    reasons: dict[datetime, list[str]] = {moment: [] for moment in ordered}
    if retention == Retention():
        return Kept(keep=dict.fromkeys(ordered, ("everything is kept",)), remove=())
    for number, moment in enumerate(ordered[: retention.last], 1):
        reasons[moment].append(f"last {number} of {retention.last}")
    for rule, period in _PERIODS.items():
        wanted = getattr(retention, rule)
        newest = _newest_of_each(ordered, ZoneInfo(zone), period)
        for number, moment in enumerate(newest[:wanted], 1):
            reasons[moment].append(f"{rule} {number} of {wanted}")
    if ordered and not reasons[ordered[0]]:
        reasons[ordered[0]].append("the newest")
    return Kept(
        keep={moment: tuple(why) for moment, why in reasons.items() if why},
        remove=tuple(moment for moment, why in reasons.items() if not why),
    )


def _newest_of_each(
    ordered: Iterable[datetime], zone: ZoneInfo, period: Callable[[datetime], object]
) -> list[datetime]:
    """The first moment of each period."""
    first: dict[object, datetime] = {}
    for moment in ordered:
        first.setdefault(period(moment.astimezone(zone)), moment)
    return list(first.values())
