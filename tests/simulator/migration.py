"""The two requests of a pull: the source offers, the target receives and dials. What then flows is in ``transfer``."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.simulator import breakage, creation, validation
from tests.simulator.clock import Timer
from tests.simulator.http import Refused, Request, Response, begun
from tests.simulator.model import Instance
from tests.simulator.operations import Operation
from tests.simulator.transfer import Transfer

if TYPE_CHECKING:
    from tests.simulator.server import Server

OFFER_SECONDS = 10.0
_DIAL = 0.02
_LOST = "Timed out waiting for migration connections"
_TRANSFER = "Error transferring instance data: "


@dataclass(slots=True)
class Offer:
    """A source that waits for its target."""

    instance: Instance
    operation: Operation
    secrets: dict[str, str]
    instance_only: bool
    allow_inconsistent: bool
    timer: Timer | None = None
    transfer: Transfer | None = field(default=None)


def offer(server: "Server", request: Request, instance: Instance) -> Response:
    """Begin to wait for a target, for 10 s."""
    body = request.json
    if body.get("target"):
        raise Refused(501, "The simulator has no push")
    secrets = {"control": server.fleet.new_secret(), "fs": server.fleet.new_secret()}
    # Left out, it means yes.
    if body.get("live", True) and instance.is_alive:
        secrets["criu"] = server.fleet.new_secret()
    operation = server.operations.begin(
        "Migrating instance",
        request.project,
        instance.name,
        kind="websocket",
        metadata=dict(secrets),
        location=instance.location,
    )
    made = Offer(
        instance=instance,
        operation=operation,
        secrets=secrets,
        instance_only=bool(body.get("instance_only")),
        allow_inconsistent=bool(body.get("allow_inconsistent")),
    )
    operation.on_cancel = lambda: _withdraw(server, made, "Migration cancelled: use of closed network connection")
    server.offers[operation.id] = made
    made.timer = server.later(OFFER_SECONDS, lambda: _withdraw(server, made, _LOST))
    return begun(operation.record())


def _withdraw(server: "Server", offered: Offer, reason: str) -> None:
    if offered.transfer is not None:
        offered.transfer.fail(f"{_TRANSFER}Got error reading migration source: websocket: close 1000 (normal)", reason)
        return
    server.offers.pop(offered.operation.id, None)
    server.operations.end(offered.operation, reason)


def receive(server: "Server", request: Request) -> Response:
    """Begin to receive a copy, or to refresh one. Its record is there when this returns. Raises Refused."""
    body: dict[str, Any] = request.json
    source = body["source"]
    name = str(body.get("name") or "")
    known = server.instances.get((request.project, name))
    is_refresh = bool(source.get("refresh")) and known is not None
    if known is not None and is_refresh:
        validation.check_profiles(server, request.project, body.get("profiles") or [])
        if known.is_alive:
            raise Refused(500, "Failed getting exclusive access to instance: Instance is running")
        instance = known
    else:
        instance = _new_copy(server, request)
    operation = server.operations.begin(
        "Creating instance",
        request.project,
        name,
        kind="task" if source.get("mode", "pull") == "pull" else "websocket",
        location=instance.location,
    )
    if source.get("mode", "pull") == "pull":
        server.later(_DIAL, lambda: _dial(server, instance, operation, source, is_refresh=is_refresh))
    else:
        operation.metadata = {"control": server.fleet.new_secret(), "fs": server.fleet.new_secret()}
        server.later(OFFER_SECONDS, lambda: _give_up(server, instance, operation, _LOST, is_refresh=is_refresh))
    return begun(operation.record())


def _new_copy(server: "Server", request: Request) -> Instance:
    instance = creation.new_record(server, request)
    pool = server.pools[instance.pool]
    if pool.leftovers.get((request.project, instance.name), 0.0) > server.clock.now():
        creation.forget(server, instance)
        raise Refused(
            500, "Failed creating instance on target: Cannot create volume, already exists on migration target"
        )
    instance.config["volatile.last_state.idmap"] = "[]"
    instance.config.pop("volatile.apply_template", None)
    return instance


def _dial(server: "Server", target: Instance, operation: Operation, told: dict[str, Any], *, is_refresh: bool) -> None:
    """Connect to the source and begin; what is wrong ends the operation, and a new copy with it."""

    def give_up(error: str) -> None:
        _give_up(server, target, operation, _TRANSFER + error, is_refresh=is_refresh)

    place = urlsplit(str(told.get("operation") or ""))
    address = f"https://{place.netloc}"
    source, wire = server.fleet.reach(server, address)
    if source is None:
        give_up(f"Unable to connect to: {place.netloc} ([dial tcp {place.netloc}: connect: connection refused])")
        return
    if str(told.get("certificate") or "").strip() != source.identity.certificate.strip():
        give_up(f"Unable to connect to: {place.netloc} ([x509: certificate signed by unknown authority])")
        return
    offered: Offer | None = source.offers.get(place.path.rpartition("/")[2])
    if offered is None or dict(told.get("secrets") or {}) != offered.secrets:
        give_up("websocket: bad handshake")
        return
    source.offers.pop(offered.operation.id)
    if offered.timer:
        offered.timer.cancel()
    problem, at_source = _snapshots_impossible(server, target, offered), breakage.NO_INDEX
    if not is_refresh and (target.project, target.name) in server.pools[target.pool].ownerless:
        problem, at_source = breakage.STILL_THERE, breakage.NO_HEADER
    if problem:
        give_up(problem)
        source.later(0.005, lambda: source.operations.end(offered.operation, at_source))
        return
    offered.transfer = Transfer(
        server=source,
        instance=offered.instance,
        offered=offered.operation,
        target=server,
        copy=target,
        received=operation,
        is_refresh=is_refresh,
        instance_only=bool(told.get("instance_only")) or offered.instance_only,
        allow_inconsistent=offered.allow_inconsistent,
        wire=wire,
    )
    offered.transfer.begin()


def _snapshots_impossible(server: "Server", target: Instance, offered: Offer) -> str:
    """LXD keeps no profiles of a snapshot: it comes with those of its instance, and the target must know them."""
    snapshots = offered.instance.snapshots and not offered.instance_only
    known = all(server.profile(target.project, name) for name in offered.instance.profiles)
    return "" if known or not snapshots else "Profile not found"


def _name_in(operation: Operation) -> str:
    return str(operation.resources["instances"][0]).rpartition("/")[2]


def _give_up(server: "Server", target: Instance, operation: Operation, error: str, *, is_refresh: bool) -> None:
    is_where_it_was = server.instances.get((target.project, _name_in(operation))) is target
    if not is_refresh and target.is_unusable and is_where_it_was:
        creation.forget(server, target)
    server.operations.end(operation, error)
