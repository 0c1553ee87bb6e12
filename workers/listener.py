"""One listener per server: sees operations end and progress, so that no thread ever waits for a server.

Events are an optimisation; there is no replay of what was sent while nobody listened. So on every connect, and every
few seconds, what jobs wait for is compared with what the server lists. An operation that the server does not know any
more has ended; how, the waiting step finds out by looking at the instance.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import redis

from common.domain.errors import HerderError, TemporaryError
from common.domain.operation import FORGOTTEN, Operation, OperationRef
from common.logs import event
from common.lxd.client import LxdClient
from common.lxd.events import events, progress
from common.store.operations import OperationStore

log = logging.getLogger("herder.listener")

#: Short: until it ends, nobody hears the operations that a dead worker listened for. Two listeners are harmless.
_LEASE = timedelta(seconds=3)
_RECONCILE = timedelta(seconds=10)
_RECONNECT_SECONDS = 1.0


@dataclass
class Listener:
    """Listens to one server for as long as ``is_ours`` says so."""

    remote: str
    client: LxdClient
    store: OperationStore
    is_ours: threading.Event = field(default_factory=threading.Event)
    _told: tuple[str, str] | None = None

    def run(self) -> None:
        """Connect, compare, listen; again after every fault."""
        net = threading.Thread(target=self._reconcile_for_ever, name=f"net-{self.remote}", daemon=True)
        net.start()
        while self.is_ours.is_set():
            try:
                self._listen()
            except TemporaryError as error:
                self._tell("listener.lost", error.message)
            except (HerderError, redis.RedisError) as error:
                self._tell("listener.failed", str(error))
            time.sleep(_RECONNECT_SECONDS)
        net.join(timeout=_RECONCILE.total_seconds())

    def _tell(self, what: str, reason: str) -> None:
        """Once, and not every second until it is over."""
        if (what, reason) != self._told:
            log.warning("%s remote=%s reason=%s", what, self.remote, reason)
        self._told = (what, reason)

    def _listen(self) -> None:
        stream = events(self.client.transport, types=("operation",))
        if self._told:
            event(log, "listener.back", remote=self.remote)
            self._told = None
        self.reconcile()
        for seen in stream:
            if not self.is_ours.is_set():
                return
            if seen.operation is not None:
                self.take(seen.operation)

    def take(self, operation: Operation) -> None:
        """One operation event: its end wakes the job that waits for it, its progress is noted."""
        step = progress(operation)
        ref = OperationRef(remote=self.remote, id=operation.id)
        if step is not None:
            self.store.note_progress(ref, step.volume, step.bytes, step.bytes_per_second, datetime.now(UTC))
        if operation.is_finished:
            self.store.complete(self.remote, operation)

    def _reconcile_for_ever(self) -> None:
        while self.is_ours.is_set():
            try:
                self.reconcile()
            except (HerderError, redis.RedisError) as error:
                log.warning("listener.reconcile_failed remote=%s reason=%s", self.remote, error)
            time.sleep(_RECONCILE.total_seconds())

    def reconcile(self) -> None:
        """Compare what jobs wait for with what the server lists, one project at a time."""
        waiting = self.store.waiting(self.remote)
        for project in {ref.project for ref in waiting}:
            listed = {operation.id: operation for operation in self.client.operations(project=project)}
            for ref in (ref for ref in waiting if ref.project == project):
                found = listed.get(ref.id) or self.client.operation(ref.id)
                if found is None:
                    self.store.complete(self.remote, Operation(id=ref.id, status_code=FORGOTTEN))
                else:
                    self.take(found)


@dataclass
class Listeners:
    """The listeners of this process: for each server that jobs wait on, one worker of all listens."""

    store: OperationStore
    client_of: Callable[[str], LxdClient]
    worker: str
    _running: dict[str, tuple[Listener, threading.Thread]] = field(default_factory=dict)
    _tended: float = 0.0

    def tend(self) -> None:
        """Take, keep or give up listeners. Called often; looks every third of the lease. Raises redis.RedisError."""
        now = time.monotonic()
        wanted = self.store.listening()
        missing = [remote for remote in wanted if remote not in self._running]
        if not missing and now - self._tended < _LEASE.total_seconds() / 3:
            return
        self._tended = now
        for remote in wanted:
            if self.store.take_listener(remote, self.worker, _LEASE):
                self._start(remote)
            elif remote in self._running:
                self._running.pop(remote)[0].is_ours.clear()

    def give_up(self) -> None:
        """At an orderly stop: the next worker shall listen at once. Raises redis.RedisError."""
        for remote, (listener, _) in self._running.items():
            listener.is_ours.clear()
            self.store.leave_listener(remote, self.worker)

    def _start(self, remote: str) -> None:
        running = self._running.get(remote)
        if running is not None and running[1].is_alive():
            return
        try:
            client = self.client_of(remote)
        except HerderError as error:
            log.warning("listener.impossible remote=%s reason=%s", remote, error.message)
            return
        listener = Listener(remote, client, self.store)
        listener.is_ours.set()
        thread = threading.Thread(target=listener.run, name=f"listener-{remote}", daemon=True)
        self._running[remote] = (listener, thread)
        thread.start()
