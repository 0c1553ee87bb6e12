"""Servers that do not answer: who failed how often in a row, who is set aside, and who probes it.

Failures are counted by ``workers.runner``; a server that is set aside is probed by ``workers.prober``, and its jobs
are due when it is back. Read by ``producer.watch``.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
from redis import Redis

from common.domain.aside import Trouble
from common.store.keys import Keys
from common.store.roles import leave_role, take_role
from common.store.scripts import Scripts


class ServerStore:
    """The troubles of one namespace. All but ``troubles`` is rare: servers mostly answer."""

    def __init__(self, client: "Redis", keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._run = Scripts(client, keys.namespace)

    def troubles(self) -> dict[str, Trouble]:
        """The servers whose last request got no answer, by remote."""
        found: dict[bytes, bytes] = self._client.hgetall(self._keys.troubles)  # type: ignore[assignment]
        return {remote.decode(): _trouble(remote.decode(), data) for remote, data in found.items()}

    def set_aside(self) -> tuple[Trouble, ...]:
        """The servers that are set aside, by name."""
        troubles = sorted(self.troubles().items())
        return tuple(trouble for _, trouble in troubles if trouble.is_set_aside)

    def failed(self, remote: str, reason: str) -> tuple[Trouble, bool]:
        """Count a request that got no answer; how the server stands, and whether this failure set it aside."""
        data, is_new = self._run("fail", remote, reason)
        return _trouble(remote, data), bool(is_new)

    def answered(self, remote: str) -> bool:
        """Forget the server's troubles and make the jobs that waited for it due; whether it was set aside."""
        return bool(self._run("answer", remote))

    def take_probe(self, remote: str, worker: str, lease: timedelta) -> bool:
        """Become, or stay, the one that probes a server."""
        return take_role(self._client, self._keys.prober(remote), worker, lease)

    def leave_probes(self, remotes: Sequence[str], worker: str) -> None:
        """Stop being the one that probes these servers."""
        for key in map(self._keys.prober, remotes):
            leave_role(self._client, key, worker)


def _trouble(remote: str, data: bytes) -> Trouble:
    """As ``fail.lua`` wrote it; times are in ms."""
    fields: dict[str, Any] = msgpack.unpackb(data)
    return Trouble(
        remote=remote,
        failures=fields["failures"],
        since=datetime.fromtimestamp(fields["since"] / 1000, UTC),
        reason=fields["reason"],
        is_set_aside=fields["aside"],
    )
