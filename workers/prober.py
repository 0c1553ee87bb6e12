"""Brings servers back that were set aside: for each of them one worker of all asks, so that no job has to knock.

Tended by ``workers.keeper``. A prober that dies loses its lease, and another worker's takes over.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import redis

from common.domain.errors import HerderError, ServerBusy, ServerUnreachable
from common.logs import event
from common.lxd.client import LxdClient
from common.store.servers import ServerStore

log = logging.getLogger("herder.prober")

#: Short: until it ends, nobody asks for a server that a dead worker probed.
_LEASE = timedelta(seconds=3)
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0


@dataclass
class Prober:
    """The probes of one worker process."""

    servers: ServerStore
    client_of: Callable[[str], LxdClient]
    worker: str
    _probes: dict[str, threading.Thread] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)

    def tend(self) -> None:
        """Probe the servers that nobody else probes, each in a thread of its own. Raises redis.RedisError.

        Called often: it is also what prolongs the leases.
        """
        ours = [
            trouble.remote
            for trouble in self.servers.set_aside()
            if self.servers.take_probe(trouble.remote, self.worker, _LEASE)
        ]
        self._probes = {remote: thread for remote, thread in self._probes.items() if thread.is_alive()}
        for remote in ours:
            rested = time.monotonic() - self._asked.get(remote, float("-inf")) >= _PAUSE_SECONDS
            if rested and remote not in self._probes:
                self._probes[remote] = threading.Thread(
                    target=self._probe, args=(remote,), name=f"prober-{remote}", daemon=True
                )
                self._probes[remote].start()

    def give_up(self) -> None:
        """At an orderly stop: the next worker shall probe at once. Raises redis.RedisError."""
        self.servers.leave_probes(tuple(self._asked), self.worker)

    def _probe(self, remote: str) -> None:
        try:
            self.probe(remote)
        except redis.RedisError as error:
            log.warning("prober.failed remote=%s reason=%s", remote, error)
        finally:
            self._asked[remote] = time.monotonic()

    def probe(self, remote: str) -> None:
        """Ask the server once, and bring it back if it answers. Raises redis.RedisError."""
        try:
            self.client_of(remote).transport.request("GET", "/1.0", timeout=_TIMEOUT_SECONDS)
        except (ServerUnreachable, ServerBusy) as error:
            self.servers.failed(remote, error.message)
            return
        except HerderError as error:
            # Not for time to mend: its jobs find out, each for itself, and tell a person.
            log.warning("prober.refused remote=%s reason=%s", remote, error.message)
        if self.servers.answered(remote):
            event(log, "server.back", remote=remote)
