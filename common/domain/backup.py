"""What a backup policy asks for: which instances are backed up when, whither, and for how long.

A **run** is one due moment of a policy; ``generation`` knows what a run makes.
"""

from dataclasses import dataclass, field
from datetime import timedelta

from common.domain.generation import Hook
from common.domain.plan import Compression, Limits, Mode, Selection
from common.domain.retention import Retention


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a policy is due: a cron line or calendar words, in a time zone, and how its runs are spread.

    ``jitter`` is the most by which a run begins late, the same for every attempt at that run. A run that could not
    begin within ``window`` of its due moment is not made any more, and that is reported; None: it is caught up.
    """

    when: str
    zone: str = "UTC"
    jitter: timedelta = timedelta(0)
    window: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class BackupTarget:
    """Where generations go, and how long they stay: to ``remote``, or as compressed files into ``archive``.

    ``written`` is ``FILE:LINE:COLUMN``, where it is asked for.
    """

    remote: str = ""
    archive: str = ""
    compression: Compression = Compression.NONE
    project: str = ""  # on the target; "": as on the source
    storage: str = ""  # the target's pool; "": that of the same name
    keep: Retention = field(default_factory=Retention)
    written: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        """The remote, or the address of the archive."""
        return self.archive or self.remote


@dataclass(frozen=True, kw_only=True)
class BackupPolicy:
    """One entry of a policy file. ``rpo`` is the age that the last good backup of an instance may reach."""

    name: str
    select: Selection
    schedule: Schedule
    targets: tuple[BackupTarget, ...]
    keep: Retention = field(default_factory=Retention)  # of the snapshots on the source
    rpo: timedelta | None = None
    hook: Hook = field(default_factory=Hook)
    limits: Limits = field(default_factory=Limits)
    mode: Mode = Mode.AUTO
    rate: int = 0
    stall: timedelta = timedelta(minutes=2)
