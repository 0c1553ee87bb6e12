"""The thread that keeps a worker process honest.

It sends heartbeats and maintenance, prolongs the leases of the jobs held here, pumps overdue jobs, keeps a listener for
each server that jobs wait on and a prober for each that is set aside, and ends the process when a thread of it has died
or a Redis outage may have orphaned messages: whoever started the worker starts a fresh one (crash-only).
"""

import logging
import os
import threading
import time
from dataclasses import dataclass, field

import dramatiq
import redis

from common.domain.errors import FenceLost
from common.store.jobs import LEASE, JobStore
from workers.broker import HEARTBEAT_TIMEOUT_MS, WakeUpBroker
from workers.listener import Listeners
from workers.prober import Prober
from workers.runner import HeldJobs

log = logging.getLogger("herder.keeper")

#: sysexits.h EX_TEMPFAIL: start me again.
EXIT_START_AGAIN = 75
#: How precise the due times of jobs are, in seconds.
_TICK = 0.05
_TICK_NOTHING_TO_DO = 0.5
_LOOK_AROUND = 0.5
_MAINTENANCE = HEARTBEAT_TIMEOUT_MS / 4000


@dataclass
class Keeper:
    """``run`` is its thread. ``parent`` is the process that must be alive for this one to go on, if any."""

    broker: WakeUpBroker
    worker: dramatiq.Worker
    jobs: JobStore
    held: HeldJobs
    listeners: Listeners
    prober: Prober
    parent: int | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    _maintained: float = 0.0
    _renewed: float = 0.0
    _looked_around: float = 0.0

    def run(self) -> None:
        """Keep until ``stopping`` is set; without its keeper a worker must not live on."""
        try:
            self._keep_on()
        except Exception:
            log.exception("keeper.crashed")
            self._leave("its keeper crashed")

    def _keep_on(self) -> None:
        while not self.stopping.wait(_TICK_NOTHING_TO_DO if self.broker.nothing_to_do else _TICK):
            try:
                self._keep()
            except redis.RedisError as error:
                self._leave_if_dead()
                self.broker.tainted.set()
                log.warning("redis.unreachable reason=%s", error)
                continue
            if self.broker.tainted.is_set():
                self._leave("redis was away, and messages may be orphaned")

    def _keep(self) -> None:
        now = time.monotonic()
        if now - self._renewed >= LEASE.total_seconds() / 3:
            self._renewed = now
            self._renew()
        if now - self._maintained >= _MAINTENANCE:
            self._maintained = now
            self.broker.maintain()
            self.jobs.sign_of_life(self.listeners.worker)
        self.jobs.pump()
        if now - self._looked_around >= _LOOK_AROUND:
            self._looked_around = now
            self._leave_if_dead()
            self.broker.nothing_to_do = self.jobs.unfinished() == 0
            self.listeners.tend()
            if not self.broker.nothing_to_do:
                self.prober.tend()

    def _renew(self) -> None:
        for claim in self.held.snapshot():
            try:
                self.jobs.renew(claim)
            except FenceLost:
                # Its step finds out by itself before its next write.
                log.warning("lease.lost job=%s", claim.job.id)

    def _leave_if_dead(self) -> None:
        threads = [*self.worker.consumers.values(), *self.worker.workers]
        dead = [thread.name for thread in threads if not thread.is_alive()]
        if dead:
            self._leave(f"threads died: {', '.join(dead)}")
        if self.parent is not None and os.getppid() != self.parent:
            self._leave("the command that started it has ended")

    def _leave(self, reason: str) -> None:
        log.critical("worker.leaves reason=%s", reason)
        logging.shutdown()
        os._exit(EXIT_START_AGAIN)
