"""What is on the wire between the scripts and dramatiq, and time as Redis sees it: a test moves it by hand."""

from typing import Any

import msgpack
from redis import Redis

from common.messages import QUEUES
from common.store.keys import Keys


class Wire:
    """The queues of one namespace."""

    def __init__(self, client: "Redis", keys: Keys) -> None:
        self._client: Any = client
        self._keys = keys

    def messages(self) -> list[dict[str, Any]]:
        """All messages that wait in queues, the urgent queues first."""
        found: list[dict[str, Any]] = []
        for phase in QUEUES:
            queue = f"{self._keys.dramatiq}:{phase}"
            ids = self._client.lrange(queue, 0, -1)
            found += [msgpack.unpackb(self._client.hget(f"{queue}.msgs", message_id)) for message_id in ids]
        return found

    def wake_ups(self) -> list[tuple[str, str]]:
        """``(queue, job id)`` of all messages that wait."""
        return [(message["queue_name"], message["kwargs"]["job_id"]) for message in self.messages()]

    def take(self) -> list[tuple[str, str]]:
        """The same, and the queues are empty afterwards."""
        taken = self.wake_ups()
        for phase in QUEUES:
            self._client.delete(f"{self._keys.dramatiq}:{phase}", f"{self._keys.dramatiq}:{phase}.msgs")
        return taken

    def let_pass(self, job_id: str) -> None:
        """The job's delay, lease or visibility has passed."""
        if self._client.zscore(self._keys.due, job_id) is not None:
            self._client.zadd(self._keys.due, {job_id: 1})
        self._client.hset(self._keys.job(job_id), "lease", 1)

    def due_in_seconds(self, job_id: str) -> float | None:
        """From when on the job may be runnable; None if it is not waited for."""
        score = self._client.zscore(self._keys.due, job_id)
        seconds, micros = self._client.time()
        return None if score is None else float(score) / 1000 - (seconds + micros / 1e6)

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of the job that scripts look at."""
        fields = self._client.hgetall(self._keys.job(job_id))
        return {name.decode(): value.decode() for name, value in fields.items() if name != b"record"}

    def everything(self) -> dict[bytes, bytes]:
        """All keys of the namespace with their whole contents, to see that nothing has changed."""
        found = sorted(self._client.scan_iter(match=f"{self._keys.namespace}[:.]*"))
        return {key: self._client.dump(key) for key in found}
