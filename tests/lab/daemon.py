"""One daemon process in a folder of its own: start it, kill it, freeze it, and find what belongs to it.

The folder is its LXD_DIR or INCUS_DIR: database, socket, certificate, storage. Beside it lie its log (`NAME.log`) and
our note of the process (`NAME.process`), so that another program can find the daemon again. Whether a process is ours
is read from its environment, not only from the note: a note may be stale, or an `up` that crashed wrote none.
"""

import json
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import api, host
from tests.lab.errors import LabError
from tests.lab.host import Process
from tests.lab.product import LXD, Product

READY_SECONDS = 60
# Debian starts a daemon again that crashed (Restart=on-failure of its service), so the lab does too. A program of Go
# that crashes ends with status 2; one that was killed is meant to stay dead, and one that refuses to start as well.
KEEPER = 'until "$@"; [ $? -ne 2 ]; do sleep 1; done'
# For transfers, and for virtual machines, which run on without their daemon.
STARTED_BY_DAEMONS = ("rsync", "btrfs", "tar", "unsquashfs", "qemu-system-x86_64", "virtiofsd")
# A daemon asks images.linuxcontainers.org for news when it starts. The lab stays on this machine: that request is
# sent to a port where nobody listens. Go's HTTP client and LXD's own never use a proxy for loopback addresses.
NO_OUTSIDE = {
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,0.0.0.0,localhost",
}


@dataclass(frozen=True)
class Daemon:
    """The daemon whose directory is `folder`."""

    folder: Path
    product: Product = LXD

    @property
    def socket(self) -> Path:
        return self.folder / "unix.socket"

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    @property
    def note(self) -> Path:
        return self.folder.with_suffix(".process")

    @property
    def ready(self) -> Path:
        """Exists once the server has everything; without it, `up` makes the server anew."""
        return self.folder.with_suffix(".ready")

    @property
    def process(self) -> Process | None:
        """The running daemon, if it runs."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            noted = Process(**json.loads(self.note.read_text()))
            if noted.alive and self._is_daemon(noted):
                return noted
        # No note, or one of an earlier daemon. A child looks like the daemon until it runs its own program: the oldest.
        running = [process for process in host.processes() if self._is_daemon(process)]
        return min(running, key=lambda process: process.started, default=None)

    def spawn(self) -> None:
        """Start the process unless it runs, without waiting for its API."""
        if self.process:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._end_keepers()
        # This shell ends at once and leaves the keeper to the system: nobody's child outlives us, and leaves no zombie.
        script = 'log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'
        keeper = ("sh", "-c", KEEPER, self._keepers_name, *self.product.command.split())
        environment = {**self.product.environment(self.folder), **NO_OUTSIDE}
        started = Process.find(int(host.run("sh", "-c", script, "sh", str(self.log), *keeper, env=environment)))
        host.wait_until(
            f"{self.product.program} to start", lambda: bool(self.process) or not (started and started.alive)
        )
        process = self.process
        if process is None:
            raise LabError(f"{self.product.name} ended at once; see {self.log}")
        self.note.write_text(json.dumps(asdict(process)))

    def wait_ready(self) -> None:
        """Return when the API answers; LabError with the end of the log if the daemon ended or takes too long."""
        try:
            host.wait_until(f"the API of {self.folder}", self._is_ready, seconds=READY_SECONDS)
        except LabError as error:
            last_words = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
            raise LabError(f"{error}\n{last_words}") from error

    def _is_ready(self) -> bool:
        if not self.process:
            raise LabError(f"the daemon in {self.folder} ended")
        try:
            api.call(self.socket, "GET", "/internal/ready", seconds=5)  # what `lxd waitready` asks, twice a second
        except LabError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL the daemon only; its containers run on."""
        # First of all: who calls this is in the middle of something, and to look for keepers takes a busy host seconds.
        process = self.process
        if process:
            process.send(signal.SIGKILL)
        self._end_keepers()
        if restarted := self.process:
            restarted.send(signal.SIGKILL)
        # Also of a child that it was just about to start, which would be taken for the daemon.
        gone = [each for each in (process, restarted) if each]
        host.wait_until(
            f"the end of the daemon in {self.folder}",
            lambda: not any(each.alive for each in gone) and not self.process,
        )

    def sql(self, statement: str) -> None:
        """Change the daemon's database behind its back."""
        host.run(*self.product.sql, statement, env=self.product.environment(self.folder))

    def freeze(self) -> None:
        """SIGSTOP: the daemon keeps its connections and answers nothing."""
        if process := self.process:
            process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: the daemon goes on where it was."""
        if process := self.process:
            process.send(signal.SIGCONT)

    def destroy(self) -> None:
        """End the daemon, its containers and their helpers; give back mounts and loop devices; remove the folder.

        Does not need a daemon that answers, nor a note of it: this is also how the remains of a crashed `up` go away.
        """
        self._end_keepers()
        host.end_all([process for process in host.processes() if self._is_ours(process)])
        monitors = [process for process in host.processes() if self._is_monitor(process)]
        guests = host.descendants(monitors)
        for guest in guests:
            guest.send(signal.SIGKILL)
            guest.leave_freezer()
        # A monitor takes its container's cgroups away when the container ends; it needs a moment for that.
        with suppress(LabError):
            host.wait_until("the monitors", lambda: not any(monitor.alive for monitor in monitors), seconds=5)
        helpers = [process for process in host.processes() if self._is_ours(process)]
        host.end_all([*monitors, *guests, *helpers])
        host.unmount_under(self.folder)
        host.free_loops_under(self.folder)
        host.run("rm", "--recursive", "--force", "--one-file-system", str(self.folder))
        for beside in (self.note, self.log, self.ready):
            beside.unlink(missing_ok=True)

    @property
    def _keepers_name(self) -> str:
        return f"keeper-of-{self.folder}"

    def _end_keepers(self) -> None:
        """The daemon itself runs on, and is not started again."""
        host.end_all([process for process in host.processes() if self._keepers_name in process.command.split()])

    def _is_daemon(self, process: Process) -> bool:
        return process.command == self.product.command and self._is_ours(process)

    def _is_ours(self, process: Process) -> bool:
        """The daemon or a program that it started for it; not a shell that somebody opened in our folder."""
        return (
            process.program in {self.product.program, *STARTED_BY_DAEMONS}
            and process.environment.get(self.product.dir_variable) == str(self.folder)
            and not self._is_monitor(process)
        )

    def _is_monitor(self, process: Process) -> bool:
        return process.command.startswith(f"[lxc monitor] {self.folder}/containers")
