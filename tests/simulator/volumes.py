"""Custom volumes: what may be asked of them, and their transfers between servers.

They differ from those of instances: a record is there when the first bytes arrive, nobody is frozen, nothing can be
cancelled, and from btrfs to btrfs all is sent every time.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from tests.simulator import breakage, daemon, migration, records, volume_backups
from tests.simulator.http import Json, Refused, Request, Response, answer, begun, created
from tests.simulator.migration import Expected, Offer
from tests.simulator.model import Data, Instance, Volume, difference
from tests.simulator.operations import Operation
from tests.simulator.pieces import OVERHEAD, Piece
from tests.simulator.profiles import check_etag
from tests.simulator.router import router
from tests.simulator.storage import find
from tests.simulator.transfer import Transfer

if TYPE_CHECKING:
    from tests.simulator.server import Server
    from tests.simulator.wire import Wire

_COLLECTION = "storage-pools/*/volumes/custom"
_TRANSFER = "Error transferring storage volume: "
_LOST = "Timed out waiting for connections"
#: How long after a broken transfer a dir pool still has the record.
_REMOVAL = 0.2
#: How long a snapshot takes to come or to go, and how many bytes per second a pool that has no deltas copies.
_SNAPSHOT, _CLONE_RATE = 0.05, 400e6


@router.on("GET", _COLLECTION)
def list_volumes(server: "Server", request: Request, name: str) -> Response:
    """Their snapshots too."""
    found = [each for each in find(server, name).volumes.values() if each.project == request.project]
    if request.is_recursive:
        shown = [_record(server, each) for each in found]
        return answer(
            [*shown, *({**r, "name": f"{v.name}/{s}"} for r, v in zip(shown, found, strict=True) for s in v.snapshots)]
        )
    path = f"/1.0/storage-pools/{name}/volumes/custom"
    snapshots = [f"{path}/{each.name}/snapshots/{snapshot}" for each in found for snapshot in each.snapshots]
    return answer([*(f"{path}/{each.name}" for each in found), *snapshots])


@router.on("POST", _COLLECTION)
def create_volume(server: "Server", request: Request, name: str) -> Response:
    """An empty one at once, one that comes from another server, or a backup. Raises Refused for a taken name."""
    if request.headers.get("content-type") == volume_backups.CONTENT:
        return volume_backups.restore(server, request, name)
    body, pool = request.json, find(server, name)
    known = pool.volumes.get((request.project, str(body.get("name") or "")))
    source: dict[str, Any] = body.get("source") or {}
    is_refresh = bool(source.get("refresh")) and known is not None
    if known is not None and not is_refresh:
        raise Refused(409, "Volume by that name already exists")
    volume = known or Volume(
        str(body.get("name") or ""),
        request.project,
        name,
        config={key: value for key, value in (body.get("config") or {}).items() if value != ""},
        description=str(body.get("description") or ""),
        content_type=str(body.get("content_type") or "filesystem"),
        data=None if source else Data(server.fleet.new_generation(), 0, 0),
    )
    if source.get("type") == "copy":
        return _clone(server, volume, source)
    if source:
        return _receive(server, volume, source, is_refresh=is_refresh)
    pool.volumes[request.project, volume.name] = volume
    server.note_volume("volume-created", volume)
    return created(f"/1.0/storage-pools/{name}/volumes/custom/{volume.name}")


@router.on("GET", f"{_COLLECTION}/*")
def get_volume(server: "Server", request: Request, name: str, volume: str) -> Response:
    found = server.volume(request.project, name, volume)
    return answer(_record(server, found), etag=_etag(found))


@router.on("PATCH", f"{_COLLECTION}/*")
def patch_volume(server: "Server", request: Request, name: str, volume: str) -> Response:
    """Change its config. Raises Refused if it is not as it was."""
    found = server.volume(request.project, name, volume)
    check_etag(request, _etag(found))
    found.config.update(request.json.get("config") or {})
    found.config = {key: value for key, value in found.config.items() if value != ""}
    found.description = str(request.json.get("description") or "")
    return answer({})


@router.on("DELETE", f"{_COLLECTION}/*")
def delete_volume(server: "Server", request: Request, name: str, volume: str) -> Response:
    """Raises Refused for one that is used."""
    found = server.volume(request.project, name, volume)
    if _users(server, found):
        raise Refused(400, "The storage volume is still in use")
    del server.pools[name].volumes[found.project, found.name]
    server.note_volume("volume-deleted", found)
    return answer({})


@router.on("GET", f"{_COLLECTION}/*/snapshots")
def list_snapshots(server: "Server", request: Request, name: str, volume: str) -> Response:
    found = server.volume(request.project, name, volume)
    return answer([f"/1.0/storage-pools/{name}/volumes/custom/{volume}/snapshots/{each}" for each in found.snapshots])


@router.on("POST", f"{_COLLECTION}/*/snapshots")
def create_snapshot(server: "Server", request: Request, name: str, volume: str) -> Response:
    """Raises Refused for a name that is taken; of two that ask for one at the same instant, one's operation fails."""
    found, snapshot = server.volume(request.project, name, volume), str(request.json["name"])
    is_there = snapshot in found.snapshots
    if is_there and found.snapshotting not in server.operations.running():
        raise Refused(409, f'Snapshot "{snapshot}" already in use')
    operation = _begin_with_snapshot(server, "Creating storage volume snapshot", "storage_volumes", found)
    if is_there:
        server.operations.end(operation, "Snapshot by that name already exists")
        return begun(operation.record())
    assert found.data is not None
    found.snapshots[snapshot], found.snapshotting = found.data, operation
    server.later(_SNAPSHOT, lambda: server.operations.end(operation))
    return begun(operation.record())


@router.on("GET", f"{_COLLECTION}/*/snapshots/*")
def get_snapshot(server: "Server", request: Request, name: str, volume: str, snapshot: str) -> Response:
    found = _with_snapshot(server, request, name, volume, snapshot)
    # Without the content type, as LXD 5.0.2 tells it.
    return answer({"name": f"{volume}/{snapshot}", "config": found.config, "description": "", "content_type": ""})


@router.on("DELETE", f"{_COLLECTION}/*/snapshots/*")
def delete_snapshot(server: "Server", request: Request, name: str, volume: str, snapshot: str) -> Response:
    found = _with_snapshot(server, request, name, volume, snapshot)
    operation = _begin_with_snapshot(server, "Deleting storage volume snapshot", "storage_volume_snapshots", found)

    def end() -> None:
        found.snapshots.pop(snapshot, None)
        server.operations.end(operation)

    server.later(_SNAPSHOT, end)
    return begun(operation.record())


def _with_snapshot(server: "Server", request: Request, pool: str, name: str, snapshot: str) -> Volume:
    """Raises Refused for one that has no such snapshot."""
    found = server.volume(request.project, pool, name)
    if snapshot not in found.snapshots:
        raise Refused(404, "Storage pool volume not found")
    return found


@router.on("POST", f"{_COLLECTION}/*")
def offer_volume(server: "Server", request: Request, name: str, volume: str) -> Response:
    """Wait for a target for 10 s, or dial the one that is named; or rename it. Raises Refused."""
    body, found = request.json, server.volume(request.project, name, volume)
    if not body.get("migration"):
        return _rename(server, found, str(body["name"]))
    if body.get("target"):
        expected, wire = migration.awaiting(server, body["target"])
        operation = _begin(server, "Migrating storage volume", found)
        expected.meet(server, _offer(found, operation, body), wire)
        return begun(operation.record())
    secrets = {"control": server.fleet.new_secret(), "fs": server.fleet.new_secret()}
    operation = _begin(server, "Migrating storage volume", found, secrets)
    made = _offer(found, operation, body, secrets)
    server.offers[operation.id] = made
    made.timer = server.later(migration.OFFER_SECONDS, lambda: migration.withdraw(server, made, _LOST))
    return begun(operation.record())


def _rename(server: "Server", volume: Volume, name: str) -> Response:
    """At once, with its snapshots; whoever attaches it, and is stopped, follows."""
    there, users = server.pools[volume.pool].volumes, _users(server, volume)
    if (volume.project, name) in there:
        raise Refused(409, "Volume by that name already exists")
    if any(each.status != "Stopped" for each in users):
        raise Refused(500, "Volume is still in use by running instances")
    for user in users:
        for device in user.devices.values():
            if (device.get("pool"), device.get("source")) == (volume.pool, volume.name):
                device["source"] = name
    server.note_volume("volume-renamed", volume, to=f"{volume.pool}/{name}")
    del there[volume.project, volume.name]
    volume.name = name
    there[volume.project, name] = volume
    return created(f"/1.0/storage-pools/{volume.pool}/volumes/custom/{name}")


def _offer(volume: Volume, operation: Operation, body: Json, secrets: dict[str, str] | None = None) -> Offer:
    alone = bool(body.get("volume_only"))
    return Offer(
        instance=volume, operation=operation, secrets=secrets or {}, instance_only=alone, allow_inconsistent=True
    )


def _clone(server: "Server", volume: Volume, source: dict[str, Any]) -> Response:
    """One of a volume of the same server, or of a snapshot of one. Its operation names nothing."""
    name, _, snapshot = str(source["name"]).partition("/")
    original = server.volume(volume.project, str(source["pool"]), name)
    operation = server.operations.begin("Copying storage volume", volume.project)
    data, pool = original.snapshots.get(snapshot) if snapshot else original.data, server.pools[volume.pool]
    if data is None:
        error = f'Storage volume "{name}/{snapshot}" does not exist: Storage volume not found'
        server.later(0.01, lambda: server.operations.end(operation, error))
        return begun(operation.record())
    pool.volumes[volume.project, volume.name] = volume
    server.note_volume("volume-created", volume)

    def end() -> None:
        volume.data = data
        server.note_volume("volume-received", volume)
        server.operations.end(operation)

    server.later(_SNAPSHOT + (0 if pool.sends_deltas else data.size / _CLONE_RATE), end)
    return begun(operation.record())


def _receive(server: "Server", volume: Volume, source: dict[str, Any], *, is_refresh: bool) -> Response:
    is_pull = source.get("mode", "pull") == "pull"
    secrets = None if is_pull else {"control": server.fleet.new_secret(), "fs": server.fleet.new_secret()}
    operation = _begin(server, "Copying storage volume" if is_pull else "Creating storage volume", volume, secrets)
    expected = _Expected(server, volume, operation, is_refresh, bool(source.get("volume_only")))
    if is_pull:
        server.later(migration.DIAL, lambda: migration.dial(expected, source))
    else:
        server.expected[operation.id] = expected
        expected.timer = server.later(migration.OFFER_SECONDS, lambda: expected.give_up(_LOST))
    return begun(operation.record())


def _begin(server: "Server", description: str, volume: Volume, secrets: dict[str, str] | None = None) -> Operation:
    kind = "websocket" if secrets else "task"
    operation = server.operations.begin(
        description, volume.project, kind=kind, metadata=dict(secrets) if secrets else None
    )
    suffix = "" if volume.project == "default" else f"?project={volume.project}"
    path = f"/1.0/storage_volumes/{volume.pool}/volumes/custom/{volume.name}{suffix}"
    operation.resources = {"storage_volumes": [path]}
    return operation


def _begin_with_snapshot(server: "Server", description: str, kind: str, volume: Volume) -> Operation:
    """LXD 5.0.2 does not tell the pool then."""
    operation = server.operations.begin(description, volume.project)
    operation.resources = {kind: [f"/1.0/{kind}/{volume.name}"]}
    return operation


class _Expected(Expected):
    """A volume that shall come; if it is a new one, nothing of it is there before."""

    def give_up(self, error: str) -> None:
        self.server.expected.pop(self.operation.id, None)
        self.server.operations.end(self.operation, _TRANSFER + error)

    def meet(self, source: "Server", offered: Offer, wire: "Wire | None") -> None:
        if (source.product, self.server.product) == ("lxd", "incus"):
            daemon.kill(self.server)  # it reads a size that LXD 5.0.2 does not send, and crashes
            return
        offered.transfer = _VolumeTransfer(
            server=source,
            instance=offered.instance,
            offered=offered.operation,
            target=self.server,
            copy=self.copy,
            received=self.operation,
            is_refresh=self.is_refresh,
            instance_only=self.instance_only or offered.instance_only,
            allow_inconsistent=True,
            wire=wire,
        )
        offered.transfer.begin()


class _VolumeTransfer(Transfer):
    """``instance`` and ``copy`` are volumes."""

    @property
    def _volume(self) -> Volume:
        return cast("Volume", self.instance)

    @property
    def _copy(self) -> Volume:
        return cast("Volume", self.copy)

    def begin(self) -> None:
        self._volume.transfer = self._copy.transfer = self
        self.server.settle(self._volume)
        if self.is_refresh and self._copy.data is None and self.target.pools[self._copy.pool].driver == "btrfs":
            self.fail(_TRANSFER + "Volume exists in database but not on storage", breakage.NO_INDEX)
            return
        self._before = self._copy.data
        snapshots = {} if self.instance_only else self._volume.snapshots
        self.pieces = [Piece(name, self._bytes(data), data) for name, data in snapshots.items()]
        if self._volume.data is not None:
            self.pieces.append(Piece("", self._bytes(self._volume.data), self._volume.data))
        self.total = sum(piece.bytes for piece in self.pieces)
        for server in (self.server, self.target):
            while server.meeting:
                server.meeting.pop(0)(self)
        self.offered.progress = self._progress
        if self.wire is not None:
            self.wire.join(self)
        self.target.later(0.1, self._flow)

    def _bytes(self, data: Data) -> int:
        return OVERHEAD + (data.size if self.deltas else difference(data, self._copy.data, self._volume.guest))

    def _flow(self) -> None:
        if self.is_over:
            return
        where = self._copy.project, self._copy.name
        there = self.target.pools[self._copy.pool].volumes
        if not self.is_refresh and where in there:
            self.fail(_TRANSFER + "Volume by that name already exists", breakage.NO_INDEX)
            return
        if not self.is_refresh:
            there[where] = self._copy
            self.target.note_volume("volume-created", self._copy)
        super()._flow()

    def _arrive(self) -> None:
        self._leave()
        self.server.settle(self._volume)
        for piece in self.pieces:
            if piece.snapshot:
                self._copy.snapshots[piece.snapshot] = piece.data
            else:
                self._copy.data = self._as_read(piece.data)
        self._copy.guest = self._volume.guest
        self.target.note_volume("volume-received", self._copy)
        self.target.operations.end(self.received)
        self.server.operations.end(self.offered)

    def _as_read(self, data: Data) -> Data:
        """LXD sends from a snapshot where the pool can make one; else rsync mixes what is written meanwhile."""
        now = self._volume.data
        if self.server.pools[self._volume.pool].sends_deltas or now is None or now.version == data.version:
            return data
        return replace(data, torn=f"~{now.version}")

    def _undo(self) -> None:
        """Failed, and the target's daemon cleans up."""
        if self.is_refresh:
            self._mix()
        elif self.deltas:
            self._forget()
        else:
            self._mix()
            self.target.later(_REMOVAL, self._forget)

    def _wreck(self) -> None:
        """The target's daemon was killed: on btrfs the record of a new one stays, without a volume."""
        self._mix()

    def _mix(self) -> None:
        """Rsync has written into it; btrfs has not."""
        if not self.deltas and self.sent and self.pieces:
            self._copy.data = replace(self.pieces[-1].data, torn=f"+{int(self.sent)}")
            self.target.note_volume("volume-received", self._copy)

    def _forget(self) -> None:
        there = self.target.pools[self._copy.pool].volumes
        if there.get((self._copy.project, self._copy.name)) is self._copy:
            del there[self._copy.project, self._copy.name]
            self.target.note_volume("volume-deleted", self._copy)


def _users(server: "Server", volume: Volume) -> list[Instance]:
    """Who attaches it."""
    return [
        instance
        for instance in server.instances.values()
        if instance.project == volume.project
        for device in records.expanded(server, instance)[1].values()
        if (device.get("pool"), device.get("source")) == (volume.pool, volume.name)
    ]


def _record(server: "Server", volume: Volume) -> Json:
    suffix = "" if volume.project == "default" else f"?project={volume.project}"
    return {
        "name": volume.name,
        "type": "custom",
        "content_type": volume.content_type,
        "description": volume.description,
        "config": volume.config,
        "location": "none",
        "used_by": sorted({f"/1.0/instances/{each.name}{suffix}" for each in _users(server, volume)}),
    }


def _etag(volume: Volume) -> str:
    return records.etag(volume.name, volume.description, volume.config)
