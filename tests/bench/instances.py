"""The instances that are moved: made with data and a running writer, and examined after the move."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from tests.bench.errors import BenchError
from tests.bench.writer import LOG_PATH, SCRIPT_PATH, Outage, outage, read_log, script
from tests.lab import LabServer, host

DATA_PATH, CHECKSUM_PATH = "/root/data", "/root/checksum"
VOLUME_PATH = "/mnt/volume"


@dataclass(frozen=True)
class Measured:
    """An instance that is going to move.

    `source_log` is the writer's log, opened below the source's pool. An open file outlives its deletion, so the last
    word of the source can be read even after a way of moving that removes the source.
    """

    name: str
    checksum: str
    source_log: BinaryIO

    def last_words(self) -> bytes:
        """The whole log of the source as it is now."""
        self.source_log.seek(0)
        return self.source_log.read()


@contextmanager
def running(server: LabServer, names: Sequence[str], *, mebibytes: int, interval_s: float) -> Iterator[list[Measured]]:
    """New instances of these names that run on `server`, each with its own random data and a writer at work."""
    made = [_make(server, name, mebibytes, interval_s) for name in names]
    try:
        yield made
    finally:
        for instance in made:
            instance.source_log.close()


def attach_volume(server: LabServer, name: str, volume: str, mebibytes: int) -> None:
    """A new custom volume with random data, attached to an instance that runs."""
    server.lxc("storage", "volume", "create", "default", volume)
    server.lxc("storage", "volume", "attach", "default", volume, name, VOLUME_PATH)
    server.lxc("exec", name, "--", "dd", "if=/dev/urandom", f"of={VOLUME_PATH}/data", "bs=1M", f"count={mebibytes}")


def checksum_of_volume(server: LabServer, volume: str) -> str:
    """Of the data in it."""
    file = server.lxd_dir / "storage-pools" / "default" / "custom" / f"default_{volume}" / "data"
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _make(server: LabServer, name: str, mebibytes: int, interval_s: float) -> Measured:
    # Left to itself, LXD only stops an instance whose network card is on a bridge that LXD does not manage.
    member = ("--target", server.name, "--config", "cluster.evacuate=migrate") if server.cluster else ()
    server.lxc("init", "tiny", name, "--quiet", *member)
    server.lxc("file", "push", "-", f"{name}{SCRIPT_PATH}", input=script(interval_s))
    server.lxc("start", name)
    server.lxc("exec", name, "--", "dd", "if=/dev/urandom", f"of={DATA_PATH}", "bs=1M", f"count={mebibytes}")
    log = server.lxd_dir / "storage-pools" / "default" / "containers" / name / "rootfs" / LOG_PATH.lstrip("/")
    host.wait_until(f"the first line of the writer in {name}", lambda: log.exists() and log.stat().st_size > 0)
    return Measured(name, _checksum(server, name), log.open("rb"))


def _checksum(server: LabServer, name: str) -> str:
    # Not from the output of `lxc exec`: LXD 5.0.2 loses it about once in 600 times, without a word.
    server.lxc("exec", name, "--", "sh", "-c", f"md5sum {DATA_PATH} >{CHECKSUM_PATH}")
    return server.lxc("file", "pull", f"{name}{CHECKSUM_PATH}", "-").split()[0]


def restart_in_place(server: LabServer, instance: Measured) -> float:
    """Seconds without a line of the writer when LXD only stops and starts it: no move can be shorter than that."""
    before = read_log(instance.last_words())[-1].number
    server.query("PUT", f"/1.0/instances/{instance.name}/state", {"action": "stop", "timeout": 30})
    server.query("PUT", f"/1.0/instances/{instance.name}/state", {"action": "start", "timeout": -1})
    host.wait_until(
        f"a line of the writer in {instance.name}", lambda: read_log(instance.last_words())[-1].number > before + 10
    )
    return max(after.at - line.at for line, after in pairwise(read_log(instance.last_words())))


def _log(server: LabServer, name: str) -> bytes:
    return server.lxc("file", "pull", f"{name}{LOG_PATH}", "-").encode()


def examine(measured: Iterable[Measured], source: LabServer, targets: Sequence[LabServer]) -> list[Outage]:
    """How long each was down.

    Raises BenchError unless each runs exactly once, on a target, with all its data, and has fallen silent on the
    source.
    """
    measured = list(measured)
    _run_once_elsewhere([instance.name for instance in measured], source, targets)
    return [_examine(instance, targets[0]) for instance in measured]


def _examine(instance: Measured, door: LabServer) -> Outage:
    """`door` is a target, or for a cluster any member of it."""
    stopped_at = read_log(instance.last_words())[-1].at

    def has_written() -> bool:
        return read_log(_log(door, instance.name))[-1].at > stopped_at

    host.wait_until(f"a line of the writer in {instance.name}", has_written)
    if _checksum(door, instance.name) != instance.checksum:
        raise BenchError(f"the data of {instance.name} are not what they were")
    return outage(instance.last_words(), _log(door, instance.name))


def _run_once_elsewhere(names: Sequence[str], source: LabServer, targets: Sequence[LabServer]) -> None:
    for server in (source, *targets):
        said, seen = _running_by_api(server), _running_by_processes(server)
        if said != seen:
            raise BenchError(f"{server.name} says that {sorted(said)} run, and {sorted(seen)} do")
    if at_home := _running_by_processes(source):
        raise BenchError(f"{', '.join(sorted(at_home))} still run on {source.name}")
    counted = Counter(name for target in targets for name in _running_by_processes(target))
    if counted != Counter(names):
        raise BenchError(f"not every instance runs exactly once on {' or '.join(t.name for t in targets)}: {counted}")


def _running_by_api(server: LabServer) -> set[str]:
    listed = server.query("GET", "/1.0/instances?recursion=1")
    here = server.name if server.cluster else "none"
    return {entry["name"] for entry in listed if entry["location"] == here and entry["status"] == "Running"}


def _running_by_processes(server: LabServer) -> set[str]:
    """Every running container has one process of this name, which outlives the daemon."""
    prefix = f"[lxc monitor] {server.lxd_dir}/containers "
    commands = [process.command for process in host.processes()]
    return {command.removeprefix(prefix) for command in commands if command.startswith(prefix)}
