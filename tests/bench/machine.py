"""The machine under the lab: how busy it was, and bringing it to rest between two measurements."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lab import LabServer, host

SYNC_SECONDS = "60"


@dataclass(frozen=True)
class Ticks:
    """What all processors together have done since boot, in clock ticks."""

    busy: int
    total: int

    @classmethod
    def now(cls) -> "Ticks":
        # user nice system idle iowait irq softirq steal; guest times follow and are in user already.
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return cls(sum(fields) - fields[3] - fields[4], sum(fields))

    def share_since(self, earlier: "Ticks") -> float:
        """Share of the processors' time that was used since then, from 0 to 1."""
        return (self.busy - earlier.busy) / max(1, self.total - earlier.total)


def describe() -> str:
    """What the figures depend on: processors, and how busy others keep them."""
    return f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before"


def come_to_rest(servers: Iterable[LabServer]) -> None:
    """Write out what is dirty and let btrfs finish its deletions, so that no way pays for the one before it."""
    os.sync()
    for server in servers:
        pool = server.lxd_dir / "storage-pools" / "default"
        host.run("btrfs", "filesystem", "sync", str(pool))  # wakes the cleaner, which else looks every 30 s
        host.run("timeout", SYNC_SECONDS, "btrfs", "subvolume", "sync", str(pool))
