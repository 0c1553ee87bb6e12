"""Pools with a real size, and the moment when a pool is full."""

from typing import TYPE_CHECKING

from tests.simulator import records
from tests.simulator.clock import Timer
from tests.simulator.http import Json, Refused, Request, Response, answer
from tests.simulator.model import Pool, difference
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server


def used(server: "Server", pool: Pool) -> int:
    """Bytes in use, what is arriving included. On btrfs a snapshot takes what has changed since the one before."""
    total = pool.other + sum(volume.size for volume in pool.volumes.values())
    for instance in server.instances.values():
        if instance.pool != pool.name:
            continue
        total += instance.data.size if instance.data else 0
        before = None
        for snapshot in instance.snapshots.values():
            if snapshot.data is not None:
                shares = pool.sends_deltas and before is not None
                total += difference(snapshot.data, before, instance.guest) if shares else snapshot.data.size
                before = snapshot.data
    arriving = (each.sent for each in server.transfers if each.target is server and each.copy.pool == pool.name)
    return int(total + sum(arriving))


class Storage:
    """Sees to it that transfers into a pool break when it is full."""

    def __init__(self) -> None:
        self._timers: dict[tuple[str, str], Timer] = {}

    def watch(self, server: "Server") -> None:
        """Look again when the pools may be full; called whenever the rates have changed."""
        for name in {each.copy.pool for each in server.transfers if each.target is server}:
            self._watch(server, server.pools[name])

    def _watch(self, server: "Server", pool: Pool) -> None:
        key = (server.name, pool.name)
        if key in self._timers:
            self._timers.pop(key).cancel()
        coming = [each for each in server.transfers if each.target is server and each.copy.pool == pool.name]
        rate = sum(each.rate for each in coming)
        free = pool.size - used(server, pool)
        if rate and free < sum(each.total - each.sent for each in coming) + 1:
            self._timers[key] = server.later(max(0.0, free / rate), lambda: self._full(server, pool))

    def _full(self, server: "Server", pool: Pool) -> None:
        coming = [each for each in server.transfers if each.target is server and each.copy.pool == pool.name]
        for each in coming:
            each.settle()
        if coming and used(server, pool) >= pool.size - 1:
            max(coming, key=lambda each: each.sent).overflow()


@router.on("GET", "storage-pools")
def list_pools(server: "Server", request: Request) -> Response:
    if request.is_recursive:
        return answer([_record(each) for each in server.pools.values()])
    return answer([f"/1.0/storage-pools/{name}" for name in server.pools])


@router.on("GET", "storage-pools/*")
def get_pool(server: "Server", _request: Request, name: str) -> Response:
    record = _record(find(server, name))
    return answer(record, etag=records.etag(record))


@router.on("GET", "storage-pools/*/resources")
def get_resources(server: "Server", _request: Request, name: str) -> Response:
    pool = find(server, name)
    space = {"used": min(used(server, pool), pool.size), "total": pool.size}
    return answer({"space": space, "inodes": {"used": 0, "total": 0}})


def find(server: "Server", name: str) -> Pool:
    """Raises Refused."""
    if name not in server.pools:
        raise Refused(404, "Storage pool not found")
    return server.pools[name]


def _record(pool: Pool) -> Json:
    return {
        "name": pool.name,
        "driver": pool.driver,
        "description": "",
        "status": "Created",
        "locations": ["none"],
        "config": {"size": str(pool.size)},
        "used_by": [],
    }
