"""Start, stop, freeze: ``PUT /1.0/instances/NAME/state``, and what guests and daemons do by themselves.

A guest that has been told to shut down does so, whatever becomes of the daemon that told it; but only a daemon that
runs writes down that it has stopped, and starts again at boot what was not written down.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulator import records, validation
from tests.simulator.http import Refused, Request, Response, answer, begun
from tests.simulator.model import Instance
from tests.simulator.operations import Operation
from tests.simulator.router import router

if TYPE_CHECKING:
    from tests.simulator.server import Server

#: LXD cleans up after a stop: the status is Stopped that long before the operation ends.
CLEANUP = 0.57
#: How long after a start its operation ends.
AFTER_START = 0.06
#: LXD reports the end of an operation a moment before it lets go of the instance.
LETS_GO = 0.001
_FAILS_AT_DEVICE = 0.015
_POWER = "volatile.last_state.power"
_DESCRIPTIONS = {
    "start": "Starting instance",
    "stop": "Stopping instance",
    "freeze": "Freezing instance",
    "unfreeze": "Unfreezing instance",
}
WRECKED = 'Failed to handle idmapped storage: Failed expanding symlinks of "": lstat {}: no such file or directory'


@router.on("GET", "instances/*/state")
def get_state(server: "Server", request: Request, name: str) -> Response:
    return answer(records.state_record(server.instance(request.project, name)))


@router.on("PUT", "instances/*/state")
def put_state(server: "Server", request: Request, name: str) -> Response:
    """Begin to change it; what is wrong with that shows in the operation."""
    instance = server.instance(request.project, name)
    action = str(request.json.get("action"))
    if action not in _DESCRIPTIONS:
        raise Refused(400, f"Unknown action {action}")
    operation = server.operations.begin(_DESCRIPTIONS[action], request.project, name, location=instance.location)
    if action == "start":
        start(server, instance, operation)
    elif action == "stop":
        seconds = float(request.json.get("timeout") or 0)
        force = bool(request.json.get("force")) or seconds == 0
        stop(server, instance, operation, None if force else seconds)
    else:
        _freeze(server, instance, operation, is_frozen=action == "freeze")
    return begun(operation.record())


def start(server: "Server", instance: Instance, operation: Operation | None) -> None:
    """Begin to start it; without an operation, as the daemon does at boot."""
    refusal = _locked(instance, "start") or ("The instance is already running" if instance.is_alive else "")
    if refusal:
        _soon(server, operation, refusal)
        return
    if instance.is_unusable:
        _soon(server, operation, WRECKED.format(f"/containers/{instance.name}"))
        return
    instance.busy = "start"
    problem = validation.unpluggable(server, records.expanded(server, instance)[1])
    if not problem and server.failing_starts.get(instance.name, 0) > 0:
        server.failing_starts[instance.name] -= 1
        problem = "Failed to run: forkstart: exit status 1"
    if problem:
        server.later(_FAILS_AT_DEVICE, lambda: _start_failed(server, instance, operation, problem))
    else:
        server.work(instance.guest.starts_in, lambda: _started(server, instance, operation))


def _start_failed(server: "Server", instance: Instance, operation: Operation | None, problem: str) -> None:
    # The id map is worked out before the devices, so the ETag changes although nothing started.
    instance.config["volatile.idmap.current"] = IDMAP
    instance.config.setdefault("volatile.last_state.idmap", IDMAP)
    _end(server, instance, operation, problem)


IDMAP = '[{"Isuid":true,"Isgid":true,"Hostid":1000000,"Nsid":0,"Maprange":1000000000}]'


def _started(server: "Server", instance: Instance, operation: Operation | None) -> None:
    if instance.is_unusable or not _is_ours(server, instance):
        _end(server, instance, operation, "Instance not found")
        return
    now = server.clock.now()
    instance.status = "Running"
    instance.last_used_at = now
    instance.config.pop("volatile.apply_template", None)
    instance.config |= {_POWER: "RUNNING", "volatile.idmap.current": IDMAP, "volatile.last_state.idmap": IDMAP}
    server.note("started", instance, token=instance.data.token if instance.data else "")
    instance.write()
    instance.wrote_at = now
    server.events.tell_lifecycle("instance-started", instance.project, f"instances/{instance.name}")
    server.later(AFTER_START, lambda: _end(server, instance, operation))


def stop(server: "Server", instance: Instance, operation: Operation, grace: float | None) -> None:
    """Begin to stop it: by force without a grace, else by asking the guest and failing when the grace is over."""
    refusal = _locked(instance, "stop") or ("" if instance.is_alive else "The instance is already stopped")
    if refusal:
        _soon(server, operation, refusal)
        return
    instance.busy = "stop"
    obeys = instance.guest.stops_in if instance.name not in server.stubborn else None
    takes = 0.13 if grace is None else obeys
    if grace is None and instance.name in server.stubborn:
        takes = None  # not even a SIGKILL ends it: a process that hangs in the kernel
    if takes is not None and (grace is None or instance.status != "Frozen"):
        server.clock.call_in(takes, lambda: _guest_ends(server, instance, operation, is_forced=grace is None))
    if grace is not None and (takes is None or takes > grace or instance.status == "Frozen"):
        problem = f'Failed shutting down instance, status is "{instance.status}": shutting down the container failed'
        server.later(grace, lambda: _grace_is_over(server, instance, operation, problem))


def _grace_is_over(server: "Server", instance: Instance, operation: Operation, problem: str) -> None:
    if instance.is_alive:
        _end(server, instance, operation, problem)


def _guest_ends(server: "Server", instance: Instance, operation: Operation, *, is_forced: bool) -> None:
    """The last process of the guest is gone; no daemon is needed for that."""
    if not instance.is_alive or not _is_ours(server, instance):
        return
    instance.settle_writes(server.clock.now())
    for volume in server.volumes_of(instance):
        server.settle(volume)
    instance.status = "Stopped"
    server.note("stopped", instance, token=instance.data.token if instance.data else "")
    if server.is_up:
        instance.busy = "stop"
        server.work(CLEANUP, lambda: _cleaned_up(server, instance, operation, is_forced=is_forced))


def _cleaned_up(server: "Server", instance: Instance, operation: Operation, *, is_forced: bool) -> None:
    instance.config[_POWER] = "STOPPED"
    action = "instance-stopped" if is_forced else "instance-shutdown"
    server.events.tell_lifecycle(action, instance.project, f"instances/{instance.name}")
    _end(server, instance, operation)
    if instance.ephemeral:
        server.instances.pop((instance.project, instance.name), None)
        server.note("deleted", instance)


def _freeze(server: "Server", instance: Instance, operation: Operation, *, is_frozen: bool) -> None:
    if not instance.is_alive:
        _soon(server, operation, "The container isn't running")
        return
    if (instance.status == "Frozen") is is_frozen:
        _soon(server, operation, "The container is already frozen" if is_frozen else "")
        return

    def done() -> None:
        if instance.is_alive:
            set_frozen(server, instance, is_frozen=is_frozen)
        server.operations.end(operation)

    server.later(0.01, done)


def set_frozen(server: "Server", instance: Instance, *, is_frozen: bool) -> None:
    """Freeze or thaw its processes now."""
    now = server.clock.now()
    instance.settle_writes(now)
    instance.status = "Frozen" if is_frozen else "Running"
    instance.wrote_at = now
    server.note("frozen" if is_frozen else "unfrozen", instance)


def _locked(instance: Instance, action: str) -> str:
    if not instance.busy:
        return ""
    return f'Failed to create instance {action} operation: Instance is busy running a "{instance.busy}" operation'


def _is_ours(server: "Server", instance: Instance) -> bool:
    """Whether it is still there, under whatever name."""
    return server.instances.get((instance.project, instance.name)) is instance


def _soon(server: "Server", operation: Operation | None, error: str) -> None:
    if operation is not None:
        server.later(0.003, lambda: server.operations.end(operation, error))


def _end(server: "Server", instance: Instance, operation: Operation | None, error: str = "") -> None:
    if operation is not None:
        server.operations.end(operation, error)
    let_go(server, instance)


def let_go(server: "Server", instance: Instance, act: Callable[[], None] | None = None) -> None:
    """Release LXD's lock on an instance, a moment later."""

    def release() -> None:
        instance.busy = ""
        if act is not None:
            act()

    server.later(LETS_GO, release)
