"""What somebody must know of backups, and when it is said: once when it begins, and once when it is over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why somebody must know."""

    BREACH = "breach"  # the last good backup is older than the policy allows
    FAILURE = "failure"  # an instance got no generation from the newest run
    MISSED = "missed"  # a run was not made
    WAITING = "waiting"  # a run is due and does not begin
    UNPROVEN = "unproven"  # the last drill failed, or is older than the policy allows
    UNSEEN = "unseen"  # nobody can tell how old the backups are


@dataclass(frozen=True, kw_only=True)
class Alert:
    """``subject`` is REMOTE:PROJECT/INSTANCE -> TARGET, or empty for all of a policy. ``text`` tells who acts next."""

    cause: Cause
    policy: str
    subject: str = ""
    text: str

    @property
    def key(self) -> str:
        """The same as long as it lasts, however its text changes."""
        return f"{self.cause} {self.policy} {self.subject}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Change:
    """What has begun and what is over since it was last told."""

    begun: tuple[Alert, ...] = ()
    over: tuple[Alert, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.begun or self.over)

    @property
    def title(self) -> str:
        """``herder: 2 new alerts, 1 over``."""
        parts = []
        if self.begun:
            parts.append(f"{len(self.begun)} new alert{'s' if len(self.begun) > 1 else ''}")
        if self.over:
            parts.append(f"{len(self.over)} over")
        return f"herder: {', '.join(parts)}"

    @property
    def body(self) -> str:
        """A line each."""
        lines = [f"{each.cause}: {each.text}" for each in self.begun]
        return "\n".join([*lines, *(f"over: {each.cause}: {each.key.partition(' ')[2]}" for each in self.over)])


def change(told: Mapping[str, Alert], now: Iterable[Alert]) -> Change:
    """What is not told yet. ``told`` has alerts by their keys."""
    standing = {each.key: each for each in now}
    return Change(
        begun=tuple(each for key, each in standing.items() if key not in told),
        over=tuple(each for key, each in told.items() if key not in standing),
    )
