"""What a step may use. Built by ``workers.runner`` for each attempt."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

import tenacity

from common.archive.place import Archive, open_archive
from common.domain.eligibility import wanted_devices
from common.domain.errors import FenceLost, HerderError, NotFound, PreconditionFailed, ServerBusy, TemporaryError
from common.domain.instance import Devices, Instance
from common.domain.job import Job, Outcome
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Move
from common.lxd.client import LxdClient
from common.lxd.migration import Offer

#: A waiting job looks at its operations at least this often, should no event arrive.
LOOK_AGAIN = timedelta(seconds=15)


def soon_again(*errors: type[Exception]) -> tenacity.Retrying:
    """Try again for 2 s: LXD reports the end of an operation a moment before it lets go of the instance."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_fixed(0.02),
        stop=tenacity.stop_after_delay(2),
        reraise=True,
    )


class OperationLog(Protocol):
    """What listeners have learned about operations."""

    def result(self, ref: OperationRef) -> Operation | None:
        """How it ended, if somebody saw it."""

    def progress(self, ref: OperationRef) -> tuple[int, int]:
        """Bytes sent and bytes per second."""


class Carry(Protocol):
    """What ``common.lxd.relay.carry`` is."""

    def __call__(self, source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, limit: int) -> None: ...


@dataclass
class Context:
    """One attempt of one step.

    ``confirm_fence`` raises FenceLost if another worker owns the job; it is called right before every write.
    ``save`` makes a checkpoint inside the step. ``memo`` is the job as text, for the servers: if Redis is lost, it is
    rebuilt from that. ``carry`` connects two servers through this process. An export or an import has one server, and
    that is both ``source`` and ``target``; ``streams`` limits how many of their backups this process carries at a time,
    and ``keep_alive`` keeps the job and its slots meanwhile and returns what a person asked for. ``client_of`` is any
    other server's.
    """

    job: Job
    source: LxdClient
    target: LxdClient
    log: OperationLog
    now: Callable[[], datetime]
    confirm_fence: Callable[[], None]
    save: Callable[[Job], None]
    memo: Callable[[Job], str]
    carry: Carry
    streams: threading.Semaphore
    keep_alive: Callable[[], str]
    client_of: Callable[[str], LxdClient]
    archive_at: Callable[[str], Archive] = open_archive
    _ended: dict[OperationRef, Operation] = field(default_factory=dict)

    @property
    def archive(self) -> Archive:
        """Where its export goes to or its import comes from."""
        return self.archive_at(self.move.archive)

    @property
    def move(self) -> Move:
        return self.job.move

    def note(self, *, evidence: Mapping[str, Any] | None = None, **facts: Any) -> None:
        """Remember something now, before the step goes on."""
        self.job = self.job.noted({**self.job.evidence, **(evidence or {})}, facts)
        self.save(self.job)

    def wanted_devices(self, source: Instance) -> dict[str, dict[str, str]]:
        """The local devices that the copy shall have when it has been handed over."""
        return wanted_devices(source, self.move, root_from_profile=bool(self.job.facts.get("root_from_profile")))

    def source_instance(self) -> Instance:
        """The instance on the source. Raises NotFound."""
        found = self.job.source_among(lambda name: _find(self.source, name, self.move.project))
        if found is None:
            raise NotFound(f"{self.move.source_place}: there is no {self.move.instance}")
        return found

    def target_instance(self) -> Instance | None:
        """What bears the instance's name on the target, or None."""
        return self.job.copy_among(lambda name: _find(self.target, name, self.move.target_project))

    def own_copy(self) -> Instance | None:
        """The copy that this job made on the target, or None; an instance that somebody else made does not count."""
        found = self.target_instance()
        return found if found and found.marks.get("job") == self.job.id else None

    def on_source(self, operation: str) -> OperationRef:
        """Names an operation of the source."""
        return OperationRef(remote=self.move.source, id=operation, project=self.move.project)

    def on_target(self, operation: str) -> OperationRef:
        """Names an operation of the target."""
        return OperationRef(remote=self.move.target, id=operation, project=self.move.target_project)

    def look(self, ref: OperationRef) -> Operation | None:
        """How an operation stands; None if its server has forgotten it and nobody saw it end."""
        known = self._ended.get(ref) or self.log.result(ref)
        if known is not None:
            return None if known.is_forgotten else known
        return self._client_of(ref).operation(ref.id)

    def settle(
        self,
        key: str,
        begin: Callable[[], OperationRef],
        *,
        blocked_on: str,
        lingers: bool = True,
    ) -> Operation | Outcome | None:
        """Begin an operation once and see it end.

        ``key`` names it in the evidence. While the instance is down it ``lingers`` for up to a second, because to let
        go of the job and to take it again would cost more. Returns an Outcome while it runs, the Operation when it has
        ended, and None if its server forgot it: then the caller must look at the world.
        """
        known = self.job.evidence.get(key)
        if known is None:
            for attempt in soon_again(ServerBusy):
                with attempt:
                    self.confirm_fence()
                    ref = begin()
            waiting = self._await(key, ref, blocked_on)
            if not (lingers and self.job.is_down and self.lingers(waiting)):
                return waiting
        else:
            ref = OperationRef(**known)
        operation = self.look(ref)
        if operation is not None and not operation.is_finished:
            return self._await(key, ref, blocked_on)
        return operation

    @contextmanager
    def taken_back_if_late(self, take_back: Callable[[], object]) -> Iterator[None]:
        """Around a write that leaves something new: had this worker slept until the job was another's, it goes again.

        The job may have ended by then, and nobody else would look for what came late. Raises FenceLost.
        """
        self.confirm_fence()
        yield
        try:
            self.confirm_fence()
        except FenceLost:
            with suppress(HerderError):
                take_back()
            raise

    def lingers(self, waiting: Outcome) -> bool:
        """Whether what it waits for has ended after a second for each operation; the rest of the step may go on."""
        self.note(evidence=waiting.evidence)
        try:
            for ref in waiting.operations:
                operation = self._client_of(ref).wait(ref.id, timeout_seconds=1)
                if operation is None or not operation.is_finished:
                    return False
                self._ended[ref] = operation
        except TemporaryError:
            return False
        return True

    def _client_of(self, ref: OperationRef) -> LxdClient:
        if ref.remote == self.move.source:
            return self.source
        return self.target if ref.remote == self.move.target else self.client_of(ref.remote)

    def _await(self, key: str, ref: OperationRef, blocked_on: str) -> Outcome:
        evidence = {**self.job.evidence, key: {"remote": ref.remote, "id": ref.id, "project": ref.project}}
        return Outcome.wait(blocked_on, retry_in=LOOK_AGAIN, operations=(ref,), evidence=evidence)

    def patch_source(
        self,
        config: Mapping[str, str],
        *,
        devices: Devices = MappingProxyType({}),
        profiles: tuple[str, ...] | None = None,
    ) -> None:
        """Change the source now; for a moment after an operation its server may still be busy with it."""
        self.patch(self.source, self.source_instance, config=config, devices=devices, profiles=profiles)

    def patch_target(
        self,
        config: Mapping[str, str],
        *,
        devices: Devices = MappingProxyType({}),
        seen: Instance | None = None,
        look: Callable[[], Instance] | None = None,
    ) -> None:
        """Change the copy now; ``seen`` is how it was read a moment ago. ``look`` finds it if it has another name."""
        self.patch(self.target, look or self._copy_there, seen=seen, config=config, devices=devices)

    def _copy_there(self) -> Instance:
        copy = self.target_instance()
        if copy is None:
            raise NotFound(f"{self.move.target_place}: there is no {self.job.copy_name}")
        return copy

    def patch(
        self, client: LxdClient, look: Callable[[], Instance], *, seen: Instance | None = None, **changes: Any
    ) -> None:
        """Change what ``look`` finds on whatever server now."""
        for attempt in soon_again(ServerBusy, PreconditionFailed):
            with attempt:
                # The fence is confirmed after the reading: should we sleep after that until the job is another
                # worker's, the instance will have changed, and its server refuses the write.
                known, seen = seen or look(), None
                self.confirm_fence()
                client.patch(known.name, project=known.project, seen=known, **changes)

    def wait_for(self, ref: OperationRef, *, blocked_on: str, retry_in: timedelta = LOOK_AGAIN) -> Outcome:
        """Wait for the end of an operation that somebody else has begun, with all evidence kept."""
        return Outcome.wait(blocked_on, retry_in=retry_in, operations=(ref,), evidence=dict(self.job.evidence))

    def forget(self, *keys: str) -> None:
        """Drop evidence of operations that have ended, so that the next run begins new ones."""
        self.job = self.job.noted({k: v for k, v in self.job.evidence.items() if k not in keys})


def _find(client: LxdClient, name: str, project: str) -> Instance | None:
    try:
        return client.instance(name, project=project)
    except NotFound:
        return None
