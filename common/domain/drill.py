"""What a drill knows and what it leaves behind: the proof that a generation starts, or that it does not.

A drill starts a **clone** of a generation on the generation's own server, without network, and removes it again. Its
outcome is a key on the generation, so that it is found without Redis. ``workers.steps.drilling`` has the steps.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

#: On a generation: the outcome of its last drill, or of one of an older generation that was pruned since, as JSON.
BACKUP_DRILL = "user.herder-backup-drill"
#: What ``BACKUP_STATE`` says of the clone of a drill.
DRILLED = "drill"
#: How long the clone may take until it runs and its command succeeds, unless that is said.
TIMEOUT = timedelta(minutes=5)

#: With ``-drill-`` and the id of a plan it stays within the 63 characters of an instance's name.
_LONGEST = 46
_STAMP = len("-20261123-020000")


@dataclass(frozen=True, kw_only=True)
class DrillOrder:
    """What the move of a drill knows of its run; ``source`` is ``REMOTE:PROJECT/INSTANCE`` of what was backed up."""

    at: datetime
    source: str
    timeout: timedelta = TIMEOUT


@dataclass(frozen=True, kw_only=True)
class Drill:
    """The outcome of a drill of the run that was due ``at``.

    ``running_after`` are the seconds from the start of the clone until it ran, None if nobody saw that. ``reason``
    says why it has not succeeded.
    """

    at: datetime
    generation: str
    succeeded: bool
    running_after: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if not self.succeeded:
            return f"FAILED {self.at:%Y-%m-%d %H:%M}: {self.reason}"
        after = "" if self.running_after is None else f", ran after {self.running_after:.1f} s"
        return f"ok {self.at:%Y-%m-%d %H:%M}{after}"

    @property
    def brief(self) -> str:
        """For a cell of a table."""
        return f"{self.at:%Y-%m-%d} {'ok' if self.succeeded else 'FAILED'}"

    def to_text(self) -> str:
        """As it stands on a generation; ``read`` understands it."""
        return json.dumps({**asdict(self), "at": self.at.isoformat()}, sort_keys=True)

    @classmethod
    def read(cls, text: str) -> "Drill | None":
        """What a generation's key says; None if it is not there, or was written by somebody else."""
        try:
            told = json.loads(text)
            return cls(**{**told, "at": datetime.fromisoformat(told["at"])})
        except (ValueError, TypeError, KeyError):
            return None


def newest(drills: Iterable[Drill | None]) -> Drill | None:
    """The last of them."""
    return max((each for each in drills if each is not None), key=lambda each: each.at, default=None)


def clone_name(generation: str, plan_id: str) -> str:
    """The name of the clone that a plan makes of a generation: 63 characters at most, the same for a later one."""
    return f"{generation[:-_STAMP][:_LONGEST].rstrip('-')}-drill-{plan_id}"


def clone_of_volume(kept: str, plan_id: str) -> str:
    """The name of the clone of a volume beside a generation, likewise; volumes may have longer names."""
    return f"{kept[:-_STAMP]}-drill-{plan_id}"
