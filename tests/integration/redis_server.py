"""A real Redis of our own for tests: on a unix socket, append-only, and able to die."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from producer.embedded import find_server

_START_TIMEOUT = 20.0


class RedisServer:
    """One server process over a directory, which outlives the process.

    The directory is made by us and not by pytest, whose paths can be too long for a unix socket.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> "redis.Redis":
        """A client that fails at once if nobody answers."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        """Start it with what an earlier process has left, and wait until it answers."""
        options = {"port": "0", "unixsocket": str(self.socket), "dir": str(self.directory), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "everysec"}
        flat = [part for name, value in options.items() for part in (f"--{name}", value)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen([find_server(), *flat], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """Let it die without a word."""
        assert self._process
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it and remove its directory."""
        if self._process and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
