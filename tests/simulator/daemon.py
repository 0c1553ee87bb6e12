"""What can become of a server's daemon: killed, started again, frozen, shut down in good order. Containers run on."""

from typing import TYPE_CHECKING

from tests.simulator import states, traffic
from tests.simulator.events import Events
from tests.simulator.model import Instance, Snapshot, Volume
from tests.simulator.operations import Operations

if TYPE_CHECKING:
    from tests.simulator.server import Server
    from tests.simulator.transfer import Transfer

#: After which time the daemon starts what shall run at boot, and how long it waits before it tries once more.
_AUTOSTART = 0.3
_BETWEEN_TRIES, _TRIES = 5.0, 3


def kill(server: "Server") -> None:
    """SIGKILL: operations are gone, transfers break, what was being received is a wreck."""
    if not server.is_up:
        return
    server.is_up = server.is_frozen = False
    server.pid = -server.pid  # no timer of the old daemon fires any more
    server.note("daemon-killed")
    server.events.hang_up()
    for transfer in list(server.transfers) + _not_flowing(server):
        transfer.killed(server)
    server.offers.clear()
    server.expected.clear()
    server.working = 0
    server.operations = Operations(server)
    for instance in server.instances.values():
        instance.busy = ""
        _leave_phantom(server, instance)
    for tell in server.watchers:
        tell()


def _leave_phantom(server: "Server", instance: Instance) -> None:
    """Of a snapshot that was being made there may be the record alone."""
    name, instance.snapshotting = instance.snapshotting, ""
    if name and name not in instance.snapshots and server.fleet.leaves_orphan():
        instance.snapshots[name] = Snapshot(name, server.clock.now(), dict(instance.config), {}, None)
        instance.phantoms.add(name)


def start(server: "Server") -> None:
    """Start it again, with another pid; then it starts what shall run at boot."""
    if server.is_up:
        return
    server.pid = server.fleet.new_pid()
    server.is_up, server.is_shutting_down = True, False
    for instance in server.instances.values():
        instance.busy = ""  # also of what was asked in the moment of its death
    server.events = Events(server)
    server.note("daemon-started")
    server.later(_AUTOSTART, lambda: _autostart(server, _TRIES))
    for tell in server.watchers:
        tell()


def restart(server: "Server") -> None:
    """Kill it and start it again at once."""
    kill(server)
    start(server)


def freeze(server: "Server") -> None:
    """SIGSTOP: it keeps its connections and answers nothing."""
    if server.is_up and not server.is_frozen:
        server.is_frozen = True
        server.note("daemon-frozen")
        traffic.frozen(server)


def thaw(server: "Server") -> None:
    """SIGCONT."""
    if server.is_frozen:
        server.is_frozen = False
        server.note("daemon-thawed")
        server.thawed()
        traffic.retime(server)


def shut_down(server: "Server") -> None:
    """SIGTERM: no more changes; what can be cancelled is, the rest is waited for, then it ends."""
    server.is_shutting_down = True
    for operation in server.operations.running():
        if operation.on_cancel is not None:
            server.operations.cancel(operation.id)
    _end_when_idle(server)


def _end_when_idle(server: "Server") -> None:
    if server.operations.running():
        server.later(0.05, lambda: _end_when_idle(server))
        return
    kill(server)


def _not_flowing(server: "Server") -> "list[Transfer]":
    """Transfers that have connected and send nothing yet."""
    pools = [pool for each in server.fleet.servers.values() for pool in each.pools.values()]
    holders: list[Instance | Volume] = [
        *server.instances.values(),
        *(v for pool in pools for v in pool.volumes.values()),
    ]
    moving = [each.transfer for each in holders if each.transfer is not None]
    found = {id(each): each for each in moving if server in (each.server, each.target)}
    return [each for each in found.values() if each not in server.transfers]


def _autostart(server: "Server", tries: int) -> None:
    """One after the other, those with the key, and without it those that ran."""
    failed = False
    for instance in list(server.instances.values()):
        config = server.expanded_config(instance)
        wanted = config.get("boot.autostart")
        runs = wanted == "true" or (wanted is None and config.get("volatile.last_state.power") == "RUNNING")
        if runs and not instance.is_alive and not instance.busy:
            states.start(server, instance, None)
            failed = True
    if failed and tries > 1:
        server.later(_BETWEEN_TRIES, lambda: _autostart(server, tries - 1))
