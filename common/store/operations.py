"""What listeners learn about the servers' operations: how they ended and how far they are.

Written by ``workers.listener``; read by ``workers.runner`` for the steps and by ``producer.watch`` for people.
"""

from datetime import datetime, timedelta

from redis import Redis

from common.domain.operation import Operation, OperationRef
from common.store.codec import decode, encode
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.roles import leave_role, take_role

_KEPT = timedelta(days=1)


class OperationStore:
    """Results and progress of operations, and who listens to which server."""

    def __init__(self, client: "Redis", keys: Keys, jobs: JobStore) -> None:
        self._client = client
        self._keys = keys
        self._jobs = jobs

    def waiting(self, remote: str) -> tuple[OperationRef, ...]:
        """The operations of one server that jobs wait for."""
        entries: dict[bytes, bytes] = self._client.hgetall(self._keys.waiting(remote))  # type: ignore[assignment]
        return tuple(
            OperationRef(remote=remote, id=operation.decode(), project=entry.decode().split("|", 1)[1])
            for operation, entry in entries.items()
        )

    def complete(self, remote: str, operation: Operation) -> bool:
        """Store the end of an operation and wake its job; its secrets are left out."""
        public = {k: v for k, v in operation.metadata.items() if k in ("fs_progress", "return")}
        kept = Operation(
            id=operation.id,
            status_code=operation.status_code,
            description=operation.description,
            error=operation.error,
            metadata=public,
        )
        return self._jobs.complete(remote, operation.id, encode(kept))

    def result(self, ref: OperationRef) -> Operation | None:
        """How the operation ended, if a listener saw it."""
        data = self._client.get(self._keys.result(ref.remote, ref.id))
        return decode(Operation, data) if data else None  # type: ignore[arg-type]

    def note_progress(self, ref: OperationRef, volume: str, sent: int, rate: int, now: datetime) -> None:
        """Remember how far a transfer is: ``sent`` bytes of ``volume`` at ``rate`` bytes per second."""
        key = self._keys.progress(ref.remote, ref.id)
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(key, mapping={f"volume:{volume}": sent, "rate": rate, "at": now.timestamp()})
        pipe.expire(key, _KEPT)
        pipe.execute()

    def progress(self, ref: OperationRef) -> tuple[int, int]:
        """Bytes sent and bytes per second of a transfer, as far as the source reported them."""
        fields: dict[bytes, bytes] = self._client.hgetall(self._keys.progress(ref.remote, ref.id))  # type: ignore[assignment]
        sent = sum(int(value) for name, value in fields.items() if name.startswith(b"volume:"))
        return sent, int(fields.get(b"rate", 0))

    def listening(self) -> tuple[str, ...]:
        """Remotes that jobs wait on."""
        return tuple(sorted(remote.decode() for remote in self._client.smembers(self._keys.listening)))  # type: ignore[union-attr]

    def leave_listener(self, remote: str, worker: str) -> None:
        """Stop being the one that listens to a server."""
        leave_role(self._client, self._keys.listener(remote), worker)

    def take_listener(self, remote: str, worker: str, lease: timedelta) -> bool:
        """Become, or stay, the one that listens to a server."""
        return take_role(self._client, self._keys.listener(remote), worker, lease)
