"""A worker's way to one simulated server: before each request others may have their turn, and nobody blocks time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.lxd.client import LxdClient
from common.lxd.transport import Reply
from tests.simulator import Fleet, Server
from tests.simulator.adapter import DirectTransport

if TYPE_CHECKING:
    from tests.campaign.world import World

_NO_TIME = 0.001


class Door(DirectTransport):
    """A ``Transport`` in whose waits other workers go on."""

    def __init__(self, world: "World", fleet: Fleet, server: Server) -> None:
        super().__init__(fleet, server)
        self._world = world
        self._server = server

    def _attempt(self, method: str, path: str, *, timeout: float | None, **what: Any) -> Reply:
        is_write = method != "GET"
        self._world.point(f"{method} {self.name}{path}", is_write=is_write)
        patience = timeout or self._timeouts[1]
        if path.endswith("/wait"):
            what = {**what, "params": self._wait_for_operation(path.split("/")[3], what["params"])}
        if self._server.is_frozen:
            self._world.pause_until(lambda: not self._server.is_frozen, patience)
            timeout = timeout if not self._server.is_frozen else _NO_TIME
        return super()._attempt(method, path, timeout=timeout, **what)

    def _wait_for_operation(self, operation_id: str, params: Any) -> Any:
        operation, pid = self._server.operations.find(operation_id), self._server.pid
        if operation is not None:
            self._world.pause_until(
                lambda: operation.is_finished or self._server.pid != pid, float(params.get("timeout", 0))
            )
        return {**params, "timeout": "0"}


def doors(world: "World") -> Callable[[str], LxdClient]:
    """Clients by the servers' names, as one process has them: with the certificates of the time when it asked first."""
    made: dict[str, LxdClient] = {}

    def of(name: str) -> LxdClient:
        if name not in made:
            made[name] = LxdClient(name, Door(world, world.fleet, world.fleet.servers[name]))
        return made[name]

    return of
