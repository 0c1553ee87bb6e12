"""The two requests of a transfer. What then flows is in ``transfer``.

Pull: the source offers, the target receives and dials. Push: the target waits, the source sends and dials. Relay: both
wait, and somebody dials both.
"""

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
    from tests.simulator.wire import Wire

OFFER_SECONDS = 10.0
DIAL = 0.02
_LOST = "Timed out waiting for migration connections"
_TRANSFER = "Error transferring instance data: "
_HANDSHAKE = "websocket: bad handshake"


@dataclass(slots=True)
class Offer:
    """A source that waits for its target, or has dialled it."""

    instance: Any
    operation: Operation
    secrets: dict[str, str]
    instance_only: bool
    allow_inconsistent: bool
    timer: Timer | None = None
    transfer: Transfer | None = field(default=None)


@dataclass(slots=True)
class Expected:
    """A target that has a copy to be filled, and for a push waits for its source."""

    server: "Server"
    copy: Any
    operation: Operation
    is_refresh: bool
    instance_only: bool
    timer: Timer | None = None

    def give_up(self, error: str) -> None:
        """It ends, and a new copy with it."""
        self.server.expected.pop(self.operation.id, None)
        is_where_it_was = self.server.instances.get((self.copy.project, _name_in(self.operation))) is self.copy
        if not self.is_refresh and self.copy.is_unusable and is_where_it_was:
            creation.forget(self.server, self.copy)
        self.server.operations.end(self.operation, _TRANSFER + error)

    def meet(self, source: "Server", offered: Offer, wire: "Wire | None") -> None:
        """Both are connected: begin, or end both for what cannot be."""
        server, copy = self.server, self.copy
        problem, at_source = _snapshots_impossible(server, copy, offered), breakage.NO_INDEX
        if not self.is_refresh and (copy.project, copy.name) in server.pools[copy.pool].ownerless:
            problem, at_source = breakage.STILL_THERE, breakage.NO_HEADER
        if problem:
            self.give_up(problem)
            source.later(0.005, lambda: source.operations.end(offered.operation, at_source))
            return
        offered.transfer = Transfer(
            server=source,
            instance=offered.instance,
            offered=offered.operation,
            target=server,
            copy=copy,
            received=self.operation,
            is_refresh=self.is_refresh,
            instance_only=self.instance_only or offered.instance_only,
            allow_inconsistent=offered.allow_inconsistent,
            wire=wire,
        )
        offered.transfer.begin()


def offer(server: "Server", request: Request, instance: Instance) -> Response:
    """Begin to wait for a target, for 10 s."""
    body = request.json
    if body.get("target"):
        return _push(server, request, instance)
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
    operation.on_cancel = lambda: withdraw(server, made, "Migration cancelled: use of closed network connection")
    server.offers[operation.id] = made
    made.timer = server.later(OFFER_SECONDS, lambda: withdraw(server, made, _LOST))
    return begun(operation.record())


def _push(server: "Server", request: Request, instance: Instance) -> Response:
    """Dial the target within the request, then send. Raises Refused."""
    body = request.json
    expected, wire = awaiting(server, body["target"])
    operation = server.operations.begin(
        "Migrating instance", request.project, instance.name, location=instance.location
    )
    offered = Offer(
        instance=instance,
        operation=operation,
        secrets={},
        instance_only=bool(body.get("instance_only")),
        allow_inconsistent=bool(body.get("allow_inconsistent")),
    )
    expected.meet(server, offered, wire)
    return begun(operation.record())


def awaiting(server: "Server", told: dict[str, Any]) -> "tuple[Expected, Wire | None]":
    """What waits at the place that a source was told to dial, and the wire on the way. Raises Refused."""
    target, wire, number = _dialled(server, told)
    expected: Expected | None = target.expected.get(number)
    if expected is None or dict(told.get("secrets") or {}) != expected.operation.metadata:
        raise Refused(500, _HANDSHAKE)
    del target.expected[number]
    if expected.timer:
        expected.timer.cancel()
    return expected, wire


def withdraw(server: "Server", offered: Offer, reason: str) -> None:
    """Nobody has come, or somebody does not want it any more."""
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
    is_pull = source.get("mode", "pull") == "pull"
    operation = server.operations.begin(
        "Creating instance",
        request.project,
        name,
        kind="task" if is_pull else "websocket",
        metadata=None if is_pull else {"control": server.fleet.new_secret(), "fs": server.fleet.new_secret()},
        location=instance.location,
    )
    expected = Expected(server, instance, operation, is_refresh, bool(source.get("instance_only")))
    if is_pull:
        server.later(DIAL, lambda: dial(expected, source))
    else:
        server.expected[operation.id] = expected
        expected.timer = server.later(OFFER_SECONDS, lambda: expected.give_up(_LOST))
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


def dial(expected: Expected, told: dict[str, Any]) -> None:
    """Connect to the source and begin; what is wrong ends the operation, and a new copy with it."""
    try:
        source, wire, number = _dialled(expected.server, told)
    except Refused as refused:
        expected.give_up(refused.text)
        return
    offered: Offer | None = source.offers.get(number)
    if offered is None or dict(told.get("secrets") or {}) != offered.secrets:
        expected.give_up(_HANDSHAKE)
        return
    del source.offers[number]
    if offered.timer:
        offered.timer.cancel()
    expected.meet(source, offered, wire)


def join(source: "Server", offer_id: str, target: "Server", expected_id: str, wire: "Wire") -> None:
    """Somebody has dialled both, and relays. Raises Refused if one of them does not wait any more."""
    if offer_id not in source.offers or expected_id not in target.expected:
        raise Refused(404, "not found")
    offered, expected = source.offers.pop(offer_id), target.expected.pop(expected_id)
    for timer in (offered.timer, expected.timer):
        if timer:
            timer.cancel()
    expected.meet(source, offered, wire)


def _dialled(dialler: "Server", told: dict[str, Any]) -> "tuple[Server, Wire | None, str]":
    """The server that one was told to dial, the wire on the way, and the operation there. Raises Refused."""
    place = urlsplit(str(told.get("operation") or ""))
    found, wire = dialler.fleet.reach(dialler, f"https://{place.netloc}")
    if found is None:
        why = f"dial tcp {place.netloc}: connect: connection refused"
        raise Refused(500, f"Unable to connect to: {place.netloc} ([{why}])")
    if str(told.get("certificate") or "").strip() != found.identity.certificate.strip():
        raise Refused(500, "x509: certificate signed by unknown authority")
    return found, wire, place.path.rpartition("/")[2]


def _snapshots_impossible(server: "Server", target: Instance, offered: Offer) -> str:
    """LXD keeps no profiles of a snapshot: it comes with those of its instance, and the target must know them."""
    snapshots = offered.instance.snapshots and not offered.instance_only
    known = all(server.profile(target.project, name) for name in offered.instance.profiles)
    return "" if known or not snapshots else "Profile not found"


def _name_in(operation: Operation) -> str:
    return str(operation.resources["instances"][0]).rpartition("/")[2]
