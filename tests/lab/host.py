"""The Linux host under the lab: commands, processes, mounts, the bridge, free ports and the lock.

Everything here is about one machine and knows nothing of LXD's API. Needs root.
"""

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError

# Debian's own programs only: a snap of LXD earlier in PATH would bring another `lxc` with other directories.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    *argv: str,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
    check: bool = True,
    folder: Path | None = None,
) -> str:
    """Standard output of a command; `env` comes on top of a minimal environment, `text` is its standard input.

    It runs in `folder`, or in ours.

    Raises LabError with the command and what it wrote to standard error if it fails and `check` is set.
    """
    plain = {"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C.UTF-8", **(env or {})}
    done = subprocess.run(argv, env=plain, input=text or "", capture_output=True, text=True, check=False, cwd=folder)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before them may contain anything, so it is cut off."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def wait_until(what: str, is_so: Callable[[], bool], *, seconds: float = 30) -> None:
    """Return as soon as `is_so()`; LabError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise LabError(f"gave up after {seconds:g} s waiting for {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Process:
    """One process, told apart from a later one with the same number by its start time (clock ticks after boot)."""

    pid: int
    started: int

    @classmethod
    def find(cls, pid: int) -> "Process | None":
        """The living process with this number; a zombie counts as gone."""
        fields = _stat(pid)
        return cls(pid, int(fields[19])) if fields and fields[0] not in "ZX" else None

    @property
    def alive(self) -> bool:
        return Process.find(self.pid) == self

    @property
    def parent(self) -> int:
        fields = _stat(self.pid)
        return int(fields[1]) if fields else 0

    @property
    def program(self) -> str:
        """File name of the program that it runs; empty for a process that is gone or has none."""
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/exe").readlink().name.removesuffix(" (deleted)")
        return ""

    @property
    def command(self) -> str:
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return ""

    @property
    def environment(self) -> dict[str, str]:
        with suppress(OSError):
            entries = Path(f"/proc/{self.pid}/environ").read_bytes().decode(errors="replace").split("\0")
            return dict(entry.split("=", 1) for entry in entries if "=" in entry)
        return {}

    def leave_freezer(self) -> None:
        """Thaw its cgroup, if that is a frozen one of version 1: there a frozen process cannot even be killed."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                if "freezer" in controllers.split(","):
                    Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").write_text("THAWED")

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still this very process."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def processes() -> list[Process]:
    """Every living process that we can see."""
    found = (Process.find(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in found if process]


def descendants(roots: list[Process]) -> list[Process]:
    """The processes below `roots`, without the roots."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    below: list[Process] = []
    todo = list(roots)
    while todo:
        of_this = children.get(todo.pop().pid, [])
        below += of_this
        todo += of_this
    return below


def end_all(doomed: list[Process]) -> None:
    """Kill these processes and wait until they are gone."""
    for process in doomed:
        process.send(signal.SIGKILL)
    wait_until(f"the end of {len(doomed)} processes", lambda: not any(process.alive for process in doomed))


def mounts_under(folder: Path) -> list[Path]:
    """Mount points at or below a folder, the last mounted first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].replace("\\040", " ")) for line in lines]
    return [point for point in reversed(points) if point == folder or folder in point.parents]


def unmount_under(folder: Path) -> None:
    """Unmount everything at or below a folder; what is busy is detached, so that it goes with its last user."""
    for point in mounts_under(folder):
        try:
            run("umount", str(point))
        except LabError:
            run("umount", "--lazy", str(point))


def free_loops_under(folder: Path) -> None:
    """Detach loop devices that still hold files below a folder."""
    for line in run("losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE").splitlines():
        device, _, file = line.partition(" ")
        if folder in Path(file.removesuffix(" (deleted)")).parents:
            run("losetup", "--detach", device, check=False)


def make_bridge(name: str) -> None:
    """A bridge without addresses and routes: guests get a network card, and nothing can leave the machine by it."""
    if not Path("/sys/class/net", name).exists():
        run("ip", "link", "add", name, "type", "bridge")
    run("ip", "link", "set", name, "up")


def remove_bridge(name: str) -> None:
    """Remove the bridge and what is plugged into it.

    A container that ends without its daemon leaves its pair of network cards on the host.
    """
    bridge = Path("/sys/class/net", name)
    if bridge.exists():
        for card in [*(bridge / "brif").iterdir(), bridge]:
            run("ip", "link", "delete", card.name)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the lock file disappears with it.

    Whoever waited may have got the lock of a file that its owner has just removed: then it takes the new one.
    """
    while True:
        handle = path.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
            break
        handle.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        handle.close()
