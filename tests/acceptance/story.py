"""The command ``herder``, run as a person or a program would run it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from common.domain.job import Job, State
from common.store.jobs import JobStore
from common.store.keys import Keys
from tests.lab import Lab, LabServer, host

HERDER = Path(sys.executable).with_name("herder")
CHECKOUT = Path(__file__).resolve().parents[2]
#: Far more than any story takes; a command that hangs is a failure with its output.
PATIENCE_SECONDS = 200

DONE, INPUT, NOT_ALL, UNREACHABLE, FOUND, INTERRUPTED = 0, 2, 3, 4, 5, 130


def tail(log: Path) -> str:
    """The end of a log, for whoever has to find out what went wrong."""
    return log.read_text()[-6000:] if log.exists() else ""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str
    log: Path  # of the workers that it started

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error that it told. Fails if there is none, or more than one, or a traceback."""
        assert "Traceback" not in self.err, self.err
        assert self.err.lower().count("error:") == 1, self.err
        return self.err

    def ended(self, code: int) -> "Ran":
        """Itself, if it ended with this exit code."""
        assert self.code == code, f"exit code {self.code}, not {code}\n{self.out}\n{self.err}\n{tail(self.log)}"
        return self


@dataclass(frozen=True)
class Running:
    """A command that runs in the background."""

    process: "subprocess.Popen[str]"
    log: Path

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Signal it; SIGINT is what Ctrl-C does."""
        self.process.send_signal(number)

    def wait(self) -> Ran:
        """Its end, which must come."""
        try:
            out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            pytest.fail(f"{self.process.args!r} did not end\n{out}\n{err}\n{tail(self.log)}")
        return Ran(self.process.returncode, out, err, self.log)


@dataclass(frozen=True)
class Herder:
    """A user of herder: with a home, a client configuration and, unless told otherwise, an own embedded Redis."""

    home: Path
    lxc_conf: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, lab: Lab, home: Path) -> "Herder":
        """A user whose client knows the lab's servers."""
        return cls(home, lab.lxc_conf)

    def having(self, lxc_conf: Path | None = None, **settings: str) -> "Herder":
        """The same user with another client configuration or with settings, written like their variables."""
        return Herder(self.home, lxc_conf or self.lxc_conf, {**self.settings, **settings})

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HERDER_", "LXD_", "INCUS_", "XDG_"))}
        return inherited | {
            "HOME": str(self.home),
            "LXD_CONF": str(self.lxc_conf),
            "HERDER_STATE_DIR": str(self.home / "state"),
            "PYTHONPATH": str(CHECKOUT),
            **self.settings,
        }

    @property
    def redis_url(self) -> str:
        return self.settings.get("HERDER_REDIS_URL") or f"unix://{self.home}/state/redis.sock"

    def start(self, *arguments: str) -> Running:
        """Begin a command."""
        return Running(
            subprocess.Popen(
                [HERDER, *arguments],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ),
            self.home / "state" / "worker.log",
        )

    def run(self, *arguments: str) -> Ran:
        """A command and its end."""
        return self.start(*arguments).wait()

    def cancel_a_refused_stop(self, job: str, source: LabServer) -> None:
        """Cancel a job whose guest would not shut down; Incus must be restarted then, and herder says so."""
        cancel = self.start("cancel", job)
        if source.product.is_incus:
            waiting = self.wait_for("the lock", cancel, state=State.WAITING, step="release_source", attempts=1)
            assert waiting.blocked_on.endswith("this lasts until it has stopped or Incus is restarted")
            source.kill()
            source.start()
        cancel.wait().ended(DONE)

    def jobs(self) -> list[Job]:
        """The records of the newest plan, as the store has them; none if nothing has been submitted."""
        store = JobStore(Redis.from_url(self.redis_url), Keys(self.settings.get("HERDER_NAMESPACE", "herder")))
        plans = store.plans()
        return list(store.jobs(plans[0])) if plans else []

    def wait_for(self, what: str, running: Running, **wanted: object) -> Job:
        """The first job whose record is like this while a command is at work, for example ``state=State.PARKED``."""
        found: list[Job] = []

        def is_so() -> bool:
            assert not running.is_over, running.wait()
            found[:] = [job for job in self._jobs_if_up() if all(getattr(job, k) == v for k, v in wanted.items())]
            return bool(found)

        host.wait_until(what, is_so, seconds=PATIENCE_SECONDS)
        return found[0]

    def _jobs_if_up(self) -> list[Job]:
        """The embedded Redis needs a moment until it answers."""
        if not self.settings.get("HERDER_REDIS_URL") and not (self.home / "state" / "redis.sock").exists():
            return []
        return self.jobs()


def worker(herder: Herder, *options: str, log: Path) -> "subprocess.Popen[bytes]":
    """A worker process for a herder that has a Redis of its own; with options, one that dies as they say."""
    module = "tests.acceptance.dying_worker" if options else "workers"
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *options],
            cwd=herder.home,
            env=herder.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
