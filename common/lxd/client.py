"""The calls of the LXD REST API that herder makes, one typed method each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from common.domain.errors import InputError, NotFound, NotTrusted, ServerBusy, ServerRefused
from common.domain.fleet import Definition, Member, Pool, Processor, Profile, Room, ServerInfo
from common.domain.instance import Config, Devices, Instance, Snapshot
from common.domain.operation import Operation
from common.domain.plan import Compression
from common.domain.volume import Volume
from common.lxd import migration, records
from common.lxd.migration import Offer, Transfer
from common.lxd.transport import Transport

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_WHOLE_RECORDS: Mapping[str, str] = MappingProxyType({"recursion": "1"})
# How much longer than the server's own waiting we wait for its answer.
_GRACE_OF_WAIT = 10.0
#: Seconds that a server may look into a backup file before it begins to restore it.
_READS_A_BACKUP = 300.0
#: What a host has that a NIC can be attached to.
_INTERFACES = frozenset({"bridge", "bond", "physical", "vlan"})
_IS_THERE = "profile already exists"
_SAVED_ALL_THE_SAME = "profile change still saved"
_NO_AGENT = "VM agent isn't currently running"
_NO_ROOT = "no such file or directory"


class LxdClient:
    """One server, or one member of a cluster. Safe to share between threads.

    What returns an operation's id has only begun when it returns. All may raise ServerUnreachable, ServerBusy,
    NotTrusted, NotFound and ServerRefused.

    ===================  ==============================================================
    info                 GET /1.0
    projects             GET /1.0/projects
    project_definitions  GET /1.0/projects?recursion=1
    create_project       POST /1.0/projects
    instances            GET /1.0/instances?recursion=1
    instance             GET /1.0/instances/NAME
    snapshots            GET /1.0/instances/NAME/snapshots?recursion=1
    snapshotted          GET /1.0/instances/NAME/snapshots/SNAPSHOT
    has_files            GET /1.0/instances/NAME/files?path=/
    used_space           GET /1.0/instances/NAME/state
    members              GET /1.0/cluster/members?recursion=1
    configure_member     GET and PUT /1.0/cluster/members/NAME
    evacuate_member,     POST /1.0/cluster/members/NAME/state
    restore_member
    pools                GET /1.0/storage-pools?recursion=1, GET /1.0/storage-pools/POOL/resources
    profiles             GET /1.0/profiles?recursion=1
    profile              GET /1.0/profiles/NAME
    create_profile       POST /1.0/profiles
    replace_profile      PUT /1.0/profiles/NAME
    refused_config       POST /1.0/profiles
    delete_profile       DELETE /1.0/profiles/NAME
    pool_definitions     GET /1.0/storage-pools?recursion=1
    create_pool          POST /1.0/storage-pools
    networks             GET /1.0/networks, GET /1.0/networks/NAME
    network_definitions  GET /1.0/networks?recursion=1
    create_network       POST /1.0/networks
    ovn_networks         GET /1.0/networks?recursion=1
    processor            GET /1.0/resources
    volumes              GET /1.0/storage-pools, GET /1.0/storage-pools/POOL/volumes/custom?recursion=1
    volume               GET /1.0/storage-pools/POOL/volumes/custom/NAME
    volume_snapshots     GET /1.0/storage-pools/POOL/volumes/custom/NAME/snapshots
    snapshot_volume      POST /1.0/storage-pools/POOL/volumes/custom/NAME/snapshots
    snapshotted_volume   GET /1.0/storage-pools/POOL/volumes/custom/NAME/snapshots/SNAPSHOT
    drop_volume_snapshot DELETE /1.0/storage-pools/POOL/volumes/custom/NAME/snapshots/SNAPSHOT
    patch_volume         PATCH /1.0/storage-pools/POOL/volumes/custom/NAME
    delete_volume        DELETE /1.0/storage-pools/POOL/volumes/custom/NAME
    rename_volume,       POST /1.0/storage-pools/POOL/volumes/custom/NAME
    offer_volume,
    push_volume
    create_volume,       POST /1.0/storage-pools/POOL/volumes/custom
    clone_volume,
    receive_volume,
    await_volume,
    restore_volume
    back_volume_up       POST /1.0/storage-pools/POOL/volumes/custom/NAME/backups
    volume_backups       GET /1.0/storage-pools/POOL/volumes/custom/NAME/backups
    read_volume_backup   GET /1.0/storage-pools/POOL/volumes/custom/NAME/backups/BACKUP/export
    drop_volume_backup   DELETE /1.0/storage-pools/POOL/volumes/custom/NAME/backups/BACKUP
    create_snapshot      POST /1.0/instances/NAME/snapshots
    delete_snapshot      DELETE /1.0/instances/NAME/snapshots/SNAPSHOT
    start, stop,         PUT /1.0/instances/NAME/state
    stop_with_memory,
    force_stop,
    freeze, unfreeze
    patch                PATCH /1.0/instances/NAME
    replace              PUT /1.0/instances/NAME
    rename, offer        POST /1.0/instances/NAME
    delete               DELETE /1.0/instances/NAME
    receive              POST /1.0/instances
    create_backup        POST /1.0/instances/NAME/backups
    has_backup           GET /1.0/instances/NAME/backups/BACKUP
    read_backup          GET /1.0/instances/NAME/backups/BACKUP/export
    delete_backup        DELETE /1.0/instances/NAME/backups/BACKUP
    restore_backup       POST /1.0/instances
    room_for_backups     GET /1.0, GET /1.0/storage-pools?recursion=1, GET /1.0/storage-pools/POOL/resources
    execute              POST /1.0/instances/NAME/exec
    operation            GET /1.0/operations/ID
    wait                 GET /1.0/operations/ID/wait
    operations           GET /1.0/operations?recursion=1
    cancel               DELETE /1.0/operations/ID
    ===================  ==============================================================
    """

    def __init__(self, remote_name: str, transport: Transport, member: str = "") -> None:
        self.remote = remote_name
        self.transport = transport
        self.member = member

    def at(self, member: str) -> "LxdClient":
        """The same cluster, for what its members answer for themselves: what it is, its pools, what it receives.

        All other requests find their instance on whatever member it is. ``""`` leaves the choice to the cluster.
        """
        return LxdClient(self.remote, self.transport, member)

    def info(self) -> ServerInfo:
        """What the server is; answered even to those whom it does not trust."""
        return records.server_info(self._get("/1.0", self._here))

    def members(self) -> tuple[Member, ...]:
        """The members of the cluster."""
        return tuple(records.member(each) for each in self._get("/1.0/cluster/members", _WHOLE_RECORDS))

    def configure_member(self, name: str, config: Config) -> None:
        """Set keys of a member's config, at once; ``""`` deletes one. Raises NotFound and PreconditionFailed.

        A change that leaves roles or groups out would take them away, so the whole record is written.
        """
        path = _member_path(name)
        reply = self.transport.request("GET", path)
        seen = records.member(reply.metadata, etag=reply.etag)
        changed = {key: value for key, value in {**seen.config, **config}.items() if value}
        body = {
            "roles": list(seen.roles),
            "failure_domain": seen.failure_domain,
            "description": seen.description,
            "groups": list(seen.groups),
            "config": changed,
        }
        self.transport.request("PUT", path, json=body, headers={"If-Match": seen.etag})

    def evacuate_member(self, name: str) -> str:
        """Begin to evacuate a member by the server's own means; it is marked as evacuated from the first moment."""
        return self._begin_on_member(name, "evacuate")

    def restore_member(self, name: str) -> str:
        """Begin to put an evacuated member into service; starts what the evacuation has stopped on it."""
        return self._begin_on_member(name, "restore")

    def _begin_on_member(self, name: str, action: str) -> str:
        return self._operation_of(
            self.transport.request("POST", f"{_member_path(name)}/state", json={"action": action}).operation
        )

    @property
    def _here(self) -> Mapping[str, str]:
        return {"target": self.member} if self.member else {}

    def projects(self) -> tuple[str, ...]:
        """Names of the projects that we may see, sorted."""
        return tuple(sorted(records.names(self._get("/1.0/projects"))))

    def instances(self, project: str | None = "default", *, matching: str = "") -> tuple[Instance, ...]:
        """All instances of a project, or of all that we may see with None; without ETags and snapshots.

        ``matching`` is a filter in LXD's language: ``config.user.tier eq web and status eq Running``; its values are
        regular expressions. Raises ServerRefused for one that LXD cannot read; LXD 5.0.2 lets nothing through if it
        does not know a field.
        """
        wanted = {"filter": matching} if matching else {}
        if project is not None:
            return self._instances({"project": project, **wanted})
        try:
            return self._instances({"all-projects": "true", **wanted})
        except NotTrusted:
            # A certificate that is restricted to some projects must name them.
            return tuple(each for name in self.projects() for each in self._instances({"project": name, **wanted}))

    def instance(self, name: str, *, project: str = "default") -> Instance:
        """One instance with its ETag, without its snapshots. Raises NotFound."""
        reply = self.transport.request("GET", _path(name), params={"project": project})
        return records.instance(reply.metadata, etag=reply.etag)

    def snapshots(self, name: str, *, project: str = "default") -> tuple[Snapshot, ...]:
        """An instance's snapshots, oldest first."""
        found = self._get(_path(name, "snapshots"), {"project": project, **_WHOLE_RECORDS})
        return tuple(sorted((records.snapshot(each) for each in found), key=lambda each: each.created_at))

    def snapshotted(self, name: str, snapshot: str, *, project: str = "default") -> Instance:
        """The instance as it was when a snapshot of it was made, with no status. Raises NotFound."""
        record = self._get(_path(name, "snapshots", snapshot), {"project": project})
        return records.instance({**record, "name": name, "project": project})

    def has_files(self, name: str, *, project: str = "default") -> bool:
        """Whether its root directory is there; a record without one is what a killed server leaves of a transfer."""
        try:
            self._get(_path(name, "files"), {"project": project, "path": "/"})
        except ServerRefused as refused:
            if _NO_ROOT in refused.message:
                return False
            raise
        return True

    def used_space(self, name: str, *, project: str = "default") -> int:
        """Bytes that its root disk takes; 0 if the server does not tell, as on pools without quotas."""
        disks = self._get(_path(name, "state"), {"project": project}).get("disk") or {}
        return int((disks.get("root") or {}).get("usage") or 0)

    def pools(self) -> tuple[Pool, ...]:
        """The storage pools with their space."""
        return tuple(
            records.pool(each, self._space(each["name"])) for each in self._get("/1.0/storage-pools", _WHOLE_RECORDS)
        )

    def profiles(self, *, project: str = "default") -> tuple[Profile, ...]:
        """The profiles that instances of a project may use."""
        found = self._get("/1.0/profiles", {"project": project, **_WHOLE_RECORDS})
        return tuple(records.profile(each) for each in found)

    def profile(self, name: str, *, project: str = "default") -> Profile:
        """One profile with its ETag. Raises NotFound."""
        reply = self.transport.request("GET", _profile_path(name), params={"project": project})
        return records.profile(reply.metadata, etag=reply.etag)

    def create_profile(
        self,
        name: str,
        *,
        description: str = "",
        config: Config | None = None,
        devices: Devices | None = None,
        project: str = "default",
    ) -> None:
        """Make a profile, at once. Raises ServerRefused if there is one of that name."""
        body = {"name": name, "description": description, "config": config or {}, "devices": devices or {}}
        self.transport.request("POST", "/1.0/profiles", params={"project": project}, json=body)

    def replace_profile(
        self, seen: Profile, *, description: str, config: Config, devices: Devices, project: str = "default"
    ) -> None:
        """Write a profile as a whole, at once, if it is still as it was when ``seen`` was read.

        LXD saves it even when an instance that uses it refuses the change, because it is busy or because the device
        cannot be plugged in while it runs; what the instance then has is told by its expanded devices. Raises
        PreconditionFailed.
        """
        body = {"description": description, "config": dict(config), "devices": {k: dict(d) for k, d in devices.items()}}
        headers = {"If-Match": seen.etag}
        try:
            self.transport.request(
                "PUT", _profile_path(seen.name), params={"project": project}, json=body, headers=headers
            )
        except (ServerBusy, ServerRefused) as refused:
            if _SAVED_ALL_THE_SAME not in refused.message:
                raise

    def refused_config(self, settings: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The keys with their values that the server would not take in an instance's config, and its words for each.

        There is no way to ask. But a server checks the config of a new profile before it finds that there is a default
        profile already, as there always is: nothing is changed.
        """
        answers = {setting: self._refusal_of(*setting) for setting in settings}
        return {setting: words for setting, words in answers.items() if words}

    def _refusal_of(self, key: str, value: str) -> str:
        try:
            self.transport.request("POST", "/1.0/profiles", json={"name": "default", "config": {key: value}})
        except NotTrusted:
            return ""  # we may not make profiles; then the transfer will tell
        except ServerRefused as refused:
            return "" if _IS_THERE in refused.message else refused.message.removeprefix(f"{self.transport.name}: ")
        return ""

    def delete_profile(self, name: str, *, project: str = "default") -> None:
        """Delete a profile that no instance uses, at once. Raises NotFound."""
        self.transport.request("DELETE", _profile_path(name), params={"project": project})

    def pool_definitions(self) -> dict[str, Definition]:
        """How each pool was made."""
        return {each["name"]: records.definition(each) for each in self._get("/1.0/storage-pools", _WHOLE_RECORDS)}

    def project_definitions(self) -> dict[str, Definition]:
        """How each project was made that we may see."""
        return {each["name"]: records.definition(each) for each in self._get("/1.0/projects", _WHOLE_RECORDS)}

    def create_project(self, name: str, definition: Definition) -> None:
        """Make a project, at once; with profiles of its own, it has an empty default profile then.

        Raises ServerRefused, also if there is one of that name.
        """
        self.transport.request("POST", "/1.0/projects", json={"name": name, **_described(definition)})

    def network_definitions(self, *, project: str = "default") -> dict[str, Definition]:
        """How each network was made that the server manages."""
        found = self._get("/1.0/networks", {"project": project, **_WHOLE_RECORDS})
        return {each["name"]: records.definition(each) for each in found if each.get("managed")}

    def create_pool(self, name: str, definition: Definition) -> None:
        """Make a storage pool, at once. Raises ServerRefused, also if there is one of that name."""
        body = {"name": name, "driver": definition.driver}
        self.transport.request("POST", "/1.0/storage-pools", json={**body, **_described(definition)})

    def create_network(self, name: str, definition: Definition, *, project: str = "default") -> None:
        """Make a network, at once. Raises ServerRefused, also if there is one of that name."""
        body = {"name": name, "type": definition.driver}
        self.transport.request(
            "POST", "/1.0/networks", params={"project": project}, json={**body, **_described(definition)}
        )

    def networks(self, *, project: str = "default") -> frozenset[str]:
        """Names of the networks that NICs of a project may use, the host's own interfaces included.

        The members of a cluster share what it manages; each tells of its own interfaces only if it is asked for one.
        """
        if not self.member:
            return records.names(self._get("/1.0/networks", {"project": project}))
        found = self._get("/1.0/networks", {"project": project, **_WHOLE_RECORDS})
        own = [each["name"] for each in found if not each.get("managed") and each.get("type") in _INTERFACES]
        return frozenset(each["name"] for each in found) - {name for name in own if not self._has_interface(name)}

    def _has_interface(self, name: str) -> bool:
        try:
            self._get(f"/1.0/networks/{_quoted(name)}", self._here)
        except NotFound:
            return False
        return True

    def ovn_networks(self, *, project: str = "default") -> frozenset[str]:
        """Names of those networks that reach beyond this server."""
        return records.ovn_networks(self._get("/1.0/networks", {"project": project, **_WHOLE_RECORDS}))

    def processor(self) -> Processor:
        """What its virtual machines run on. Raises NotTrusted for a certificate that is restricted to projects."""
        return records.processor(self._get("/1.0/resources", self._here))

    def volumes(self, *, project: str = "default") -> tuple[Volume, ...]:
        """Every custom volume that instances of a project may attach, without ETag."""
        pools = sorted(records.names(self._get("/1.0/storage-pools")))
        return tuple(
            records.volume(each, pool=pool, project=project)
            for pool in pools
            for each in self._get(_volumes_path(pool), {"project": project, **_WHOLE_RECORDS})
            if "/" not in each["name"]  # LXD lists the snapshots too
        )

    def volume(self, pool: str, name: str, *, project: str = "default") -> Volume:
        """One custom volume with its ETag. Raises NotFound."""
        reply = self.transport.request("GET", _volumes_path(pool, name), params={"project": project})
        return records.volume(reply.metadata, pool=pool, project=project, etag=reply.etag)

    def volume_snapshots(self, volume: Volume) -> frozenset[str]:
        """Names of its snapshots."""
        path = _volumes_path(volume.pool, volume.name, "snapshots")
        return records.names(self._get(path, {"project": volume.project}))

    def snapshot_volume(self, volume: Volume, snapshot: str) -> str:
        """Begin a snapshot of it. Raises ServerRefused if it has one of that name."""
        path = _volumes_path(volume.pool, volume.name, "snapshots")
        return self._begin("POST", path, volume.project, {"name": snapshot})

    def snapshotted_volume(self, volume: Volume, snapshot: str) -> Volume:
        """The volume as it was when a snapshot of it was made, attached by nobody. Raises NotFound."""
        record = self._get(_volumes_path(volume.pool, volume.name, "snapshots", snapshot), {"project": volume.project})
        was = records.volume(record, pool=volume.pool, project=volume.project)
        return replace(was, name=volume.name, content_type=volume.content_type, member=volume.member)

    def drop_volume_snapshot(self, volume: Volume, snapshot: str) -> str:
        """Begin to delete a snapshot of it. Raises NotFound."""
        return self._begin("DELETE", _volumes_path(volume.pool, volume.name, "snapshots", snapshot), volume.project)

    def patch_volume(self, seen: Volume, config: Config) -> None:
        """Add to its config, at once, also while it is attached; ``""`` deletes a key.

        Only if it is still as it was when ``seen`` was read; else raises PreconditionFailed. LXD 5.0.2 empties a
        description that is left out.
        """
        self.transport.request(
            "PATCH",
            _volumes_path(seen.pool, seen.name),
            params={"project": seen.project},
            json={"config": dict(config), "description": seen.description},
            headers={"If-Match": seen.etag},
        )

    def create_volume(self, volume: Volume) -> None:
        """Make an empty one, at once, with this config and description. Raises ServerRefused if the name is taken."""
        body = {
            "name": volume.name,
            "type": "custom",
            "content_type": volume.content_type,
            "config": dict(volume.config),
            "description": volume.description,
        }
        where = {"project": volume.project, **self._here}
        self.transport.request("POST", _volumes_path(volume.pool), params=where, json=body)

    def clone_volume(self, volume: Volume, *, of: Volume, snapshot: str = "") -> str:
        """Begin to make it of another volume of this server, or of a snapshot of one.

        It has the config that is given here, and no snapshots. On btrfs that takes no room and no time; other pools
        copy all of it. Its operation names no volume. Raises ServerRefused if the name is taken.
        """
        body = {
            "name": volume.name,
            "type": "custom",
            "content_type": volume.content_type,
            "config": dict(volume.config),
            "description": volume.description,
            "source": {
                "type": "copy",
                "name": f"{of.name}/{snapshot}" if snapshot else of.name,
                "pool": of.pool,
                "project": of.project,
                "volume_only": True,
            },
        }
        where = {"project": volume.project, **({"target": volume.member} if volume.member else self._here)}
        return self._operation_of(
            self.transport.request("POST", _volumes_path(volume.pool), params=where, json=body).operation
        )

    def delete_volume(self, volume: Volume) -> None:
        """Delete it with its snapshots, at once. Raises NotFound, and ServerRefused if anything attaches it."""
        path = _volumes_path(volume.pool, volume.name)
        self.transport.request("DELETE", path, params={"project": volume.project})

    def rename_volume(self, volume: Volume, new: str) -> None:
        """Rename it with its snapshots, at once. Raises NotFound, and ServerRefused if the name is taken.

        Raises ServerRefused too if an instance that runs attaches it; the device of one that is stopped follows it.
        """
        path, where = _volumes_path(volume.pool, volume.name), {"project": volume.project}
        self.transport.request("POST", path, params=where, json={"name": new})

    def offer_volume(self, pool: str, name: str, *, volume_only: bool = False, project: str = "default") -> Offer:
        """Offer a custom volume to whoever has the secrets; LXD withdraws it after 10 s. Nobody can cancel it.

        What attaches it goes on; it is not frozen.
        """
        body = migration.volume_offer_body(pool, name, volume_only=volume_only)
        return self._offered(_volumes_path(pool, name), project, body)

    def push_volume(self, pool: str, name: str, to: Transfer, *, project: str = "default") -> str:
        """Begin to send one to a target that waits by ``await_volume``. Raises ServerRefused without connection."""
        return self._begin("POST", _volumes_path(pool, name), project, migration.volume_push_body(pool, name, to))

    def receive_volume(self, pool: str, body: Mapping[str, Any], *, project: str = "default") -> str:
        """Begin to receive one (``migration.volume_receive_body``).

        It is there as soon as the source has sent its first bytes, looks complete and is not. Raises ServerRefused if
        there is one of that name already, unless it is a refresh.
        """
        where = {"project": project, **self._here}
        return self._operation_of(
            self.transport.request("POST", _volumes_path(pool), params=where, json=body).operation
        )

    def await_volume(self, pool: str, body: Mapping[str, Any], *, project: str = "default") -> Offer:
        """As ``receive_volume``, but wait for the source to dial; LXD gives up after 10 s."""
        return self._offered(_volumes_path(pool), project, body, self._here)

    def back_volume_up(
        self, volume: Volume, backup: str, *, expires_at: datetime, volume_only: bool, optimized: bool
    ) -> str:
        """Begin to write a backup file of it on the server, which removes it by itself some time after it has expired.

        Who attaches it goes on. One that is not ``optimized`` tells when files were changed to the second, and holds
        each snapshot as a whole; one that is only a pool of the same driver takes. Raises ServerRefused if there is one
        of that name.
        """
        body = {
            "name": backup,
            "expires_at": expires_at.isoformat(),
            "volume_only": volume_only,
            "optimized_storage": optimized,
            "compression_algorithm": Compression.NONE.value,
        }
        return self._begin("POST", _volumes_path(volume.pool, volume.name, "backups"), volume.project, body)

    def volume_backups(self, volume: Volume) -> frozenset[str]:
        """Names of its backups; one that is being made, or was never finished, is there too. Raises NotFound."""
        return records.names(self._get(_volumes_path(volume.pool, volume.name, "backups"), {"project": volume.project}))

    def read_volume_backup(self, volume: Volume, backup: str) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """The backup file: how long it is, and its pieces as they come. Raises NotFound."""
        path = _volumes_path(volume.pool, volume.name, "backups", backup, "export")
        return self.transport.download(path, {"project": volume.project})

    def drop_volume_backup(self, volume: Volume, backup: str) -> str:
        """Begin to delete a backup of it. Raises NotFound."""
        return self._begin("DELETE", _volumes_path(volume.pool, volume.name, "backups", backup), volume.project)

    def restore_volume(self, name: str, pieces: Iterable[bytes], *, pool: str, project: str = "default") -> str:
        """Send a backup file, and begin to make a custom volume of it. What the pieces raise leaves nothing behind.

        Its record is there before its files, with all that the backup says: config, description and snapshots.
        """
        return self._restore(_volumes_path(pool), {"name": name}, pieces, project)

    def create_snapshot(self, name: str, snapshot: str, *, project: str = "default") -> str:
        """Begin a snapshot without memory."""
        return self._begin("POST", _path(name, "snapshots"), project, {"name": snapshot, "stateful": False})

    def delete_snapshot(self, name: str, snapshot: str, *, project: str = "default") -> str:
        """Begin to delete a snapshot. Raises NotFound."""
        return self._begin("DELETE", _path(name, "snapshots", snapshot), project)

    def start(self, name: str, *, stateful: bool = False, project: str = "default") -> str:
        """Begin to start it; the operation fails if it runs already.

        One that was stopped with its memory goes on with it if ``stateful``, and loses it otherwise.
        """
        return self._change_state(name, project, "start", stateful=stateful)

    def stop(self, name: str, *, grace_seconds: int, project: str = "default") -> str:
        """Ask the guest to shut down; the operation fails after the grace if it did not, and the guest runs on."""
        if grace_seconds <= 0:
            raise InputError(f"{name}: a grace of {grace_seconds} s would pull the plug", hint="give at least 1 s")
        return self._change_state(name, project, "stop", timeout=grace_seconds)

    def stop_with_memory(self, name: str, *, project: str = "default") -> str:
        """Begin to stop a virtual machine that shall go on where it was: its memory is written to its disk.

        It runs on until that is done, and if it fails.
        """
        return self._change_state(name, project, "stop", stateful=True)

    def force_stop(self, name: str, *, project: str = "default") -> str:
        """Pull the plug."""
        return self._change_state(name, project, "stop", force=True)

    def freeze(self, name: str, *, project: str = "default") -> str:
        """Stop its processes where they are."""
        return self._change_state(name, project, "freeze")

    def unfreeze(self, name: str, *, project: str = "default") -> str:
        """Let a frozen one go on."""
        return self._change_state(name, project, "unfreeze")

    def patch(
        self,
        name: str,
        *,
        config: Config = _NOTHING,
        devices: Devices = _NOTHING,
        profiles: Sequence[str] | None = None,
        project: str = "default",
        seen: Instance | None = None,
    ) -> None:
        """Add to config and devices, at once, and set the profiles.

        ``""`` deletes a config key; only ``replace`` deletes a device.

        A running virtual machine without an agent cannot be told of it: LXD says so, and saves it all the same.

        With ``seen``, only if the instance is still as it was then; else raises PreconditionFailed. LXD 5.0.2 empties a
        description that is left out, so the present one is sent along.
        """
        known = seen or self.instance(name, project=project)
        body = {
            "description": known.description,
            "config": dict(config),
            "devices": {device: dict(keys) for device, keys in devices.items()},
        } | ({} if profiles is None else {"profiles": list(profiles)})
        headers = {"If-Match": seen.etag} if seen else None
        try:
            self.transport.request("PATCH", _path(name), params={"project": project}, json=body, headers=headers)
        except ServerRefused as refused:
            if _NO_AGENT not in refused.message:
                raise

    def replace(self, instance: Instance, *, config: Config, devices: Devices) -> str:
        """Begin to write config and devices as a whole, if it is still as it was when ``instance`` was read.

        Raises PreconditionFailed. The server compares before it locks, so that of two writers at the same instant both
        may be told that they succeeded.
        """
        body = records.changeable(instance, config=config, devices=devices)
        return self._begin("PUT", _path(instance.name), instance.project, body, headers={"If-Match": instance.etag})

    def delete(self, name: str, *, project: str = "default") -> str:
        """Begin to delete a stopped instance and its snapshots. Raises NotFound."""
        return self._begin("DELETE", _path(name), project)

    def rename(self, name: str, new: str, *, project: str = "default") -> str:
        """Begin to rename a stopped instance."""
        return self._begin("POST", _path(name), project, {"name": new})

    def offer(
        self, name: str, *, instance_only: bool = False, allow_inconsistent: bool = False, project: str = "default"
    ) -> Offer:
        """Offer an instance to whoever has the secrets; LXD withdraws it after 10 s without a taker.

        Without ``allow_inconsistent`` a running container on a ``dir`` pool is frozen as long as the transfer takes.
        """
        body = migration.offer_body(name, instance_only=instance_only, allow_inconsistent=allow_inconsistent)
        return self._offered(_path(name), project, body)

    def push(self, name: str, to: Transfer, *, project: str = "default") -> str:
        """Begin to send an instance to a target that waits (``await_push``). Nobody can cancel it.

        The server dials within this request. Raises ServerRefused if it does not get through.
        """
        return self._begin("POST", _path(name), project, migration.push_body(name, to))

    def receive(self, body: Mapping[str, Any], *, project: str = "default") -> str:
        """Begin to receive a copy (``migration.receive_body``).

        The copy is there from the first moment, looks stopped and complete, and is neither.
        """
        where = {"project": project, **self._here}
        return self._operation_of(self.transport.request("POST", "/1.0/instances", params=where, json=body).operation)

    def await_push(self, body: Mapping[str, Any], *, project: str = "default") -> Offer:
        """As ``receive``, but wait for the source to dial. LXD gives up after 10 s, and removes a new copy then."""
        return self._offered("/1.0/instances", project, body, self._here)

    def create_backup(
        self,
        name: str,
        backup: str,
        *,
        expires_at: datetime,
        instance_only: bool,
        optimized: bool,
        compression: Compression,
        project: str = "default",
    ) -> str:
        """Begin to write a backup file on the server, which removes it by itself some time after it has expired."""
        body = {
            "name": backup,
            "expires_at": expires_at.isoformat(),
            "instance_only": instance_only,
            "optimized_storage": optimized,
            "compression_algorithm": compression.value,
        }
        return self._begin("POST", _path(name, "backups"), project, body)

    def has_backup(self, name: str, backup: str, *, project: str = "default") -> bool:
        """Whether there is a backup of this name; one that is being made, or was never finished, is there too."""
        try:
            self._get(_path(name, "backups", backup), {"project": project})
        except NotFound:
            return False
        return True

    def read_backup(
        self, name: str, backup: str, *, project: str = "default"
    ) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """The backup file: how long it is, and its pieces as they come. Raises NotFound."""
        return self.transport.download(_path(name, "backups", backup, "export"), {"project": project})

    def delete_backup(self, name: str, backup: str, *, project: str = "default") -> str:
        """Begin to delete a backup. Raises NotFound."""
        return self._begin("DELETE", _path(name, "backups", backup), project)

    def restore_backup(self, name: str, pieces: Iterable[bytes], *, pool: str, project: str = "default") -> str:
        """Send a backup file, and begin to make an instance of it. What the pieces raise leaves nothing behind.

        The instance is there when all of it is. It is stopped, and keeps uuid, addresses and config.
        """
        return self._restore("/1.0/instances", {"name": name, "pool": pool}, pieces, project)

    def _restore(self, path: str, words: Mapping[str, str], pieces: Iterable[bytes], project: str) -> str:
        headers = {f"X-{product}-{key}": word for product in ("LXD", "Incus") for key, word in words.items()}
        reply = self.transport.request(
            "POST",
            path,
            params={"project": project, **self._here},
            data=pieces,
            headers={"Content-Type": "application/octet-stream", **headers},
            timeout=_READS_A_BACKUP,
        )
        return self._operation_of(reply.operation)

    def room_for_backups(self) -> Room | None:
        """Where the server keeps backup files, and how much room is there; None if it does not tell.

        It is the volume that its operator has set, else its own directory, of which only a pool in it tells.
        """
        config = self._get("/1.0", self._here).get("config") or {}
        set_pool = str(config.get("storage.backups_volume") or "").partition("/")[0]
        for record in self._get("/1.0/storage-pools", _WHOLE_RECORDS):
            name, source = record["name"], str((record.get("config") or {}).get("source") or "")
            is_in_its_directory = record.get("driver") == "dir" and source.endswith(f"/storage-pools/{name}")
            if name == set_pool or (not set_pool and is_in_its_directory):
                pool = records.pool(record, self._space(name))
                return Room(place=f"pool {name}", free=pool.free) if pool.total else None
        return None

    def execute(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] = _NOTHING,
        project: str = "default",
    ) -> str:
        """Begin a command in a running guest.

        When it has ended, the operation's ``metadata["return"]`` is its exit code; 127 is one that was not found.
        """
        body = {
            "command": list(command),
            "environment": dict(environment),
            "interactive": False,
            "wait-for-websocket": False,
            "record-output": False,
        }
        return self._begin("POST", _path(name, "exec"), project, body)

    def operation(self, operation: str) -> Operation | None:
        """How an operation stands, in whatever project. None if it is unknown: LXD forgets it 5 s after its end."""
        try:
            return records.operation(self._get(f"/1.0/operations/{operation}"))
        except NotFound:
            return None

    def wait(self, operation: str, *, timeout_seconds: int) -> Operation | None:
        """How an operation stands when it ends or the time is up; None if it is unknown."""
        path = f"/1.0/operations/{operation}/wait"
        try:
            reply = self.transport.request(
                "GET", path, params={"timeout": str(timeout_seconds)}, timeout=timeout_seconds + _GRACE_OF_WAIT
            )
        except NotFound:
            return None
        except ServerRefused:
            # Incus answers with the error of an operation that failed, and with one of its own when the time is up.
            return self.operation(operation)
        return records.operation(reply.metadata)

    def operations(self, *, project: str = "default") -> tuple[Operation, ...]:
        """The operations of one project that the server remembers."""
        return records.operations(self._get("/1.0/operations", {"project": project, **_WHOLE_RECORDS}))

    def cancel(self, operation: str) -> None:
        """Cancel an operation; one that is over is fine. Raises ServerRefused if it can't be cancelled."""
        try:
            self.transport.request("DELETE", f"/1.0/operations/{operation}")
        except NotFound:
            return

    def addresses(self, info: ServerInfo | None = None) -> tuple[str, ...]:
        """HTTPS addresses at which other servers may reach this one, of a server the one that we use ourselves first.

        ``info`` saves the asking.
        """
        told = tuple(f"https://{address}" for address in (info or self.info()).addresses)
        ours = (self.transport.address,) if self.transport.address.startswith("https:") else ()
        # Any member of a cluster passes on what is meant for another one, but that is a longer way.
        return tuple(dict.fromkeys((*told, *ours) if self.member else (*ours, *told)))

    def _get(self, path: str, params: Mapping[str, str] = _NOTHING) -> Any:
        return self.transport.request("GET", path, params=params).metadata

    def _begin(
        self,
        method: str,
        path: str,
        project: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        reply = self.transport.request(method, path, params={"project": project}, json=body, headers=headers)
        return self._operation_of(reply.operation)

    def _operation_of(self, operation: str | None) -> str:
        if operation is None:
            raise ServerRefused(f"{self.remote}: did not begin an operation")
        return operation

    def _offered(self, path: str, project: str, body: Mapping[str, Any], where: Mapping[str, str] = _NOTHING) -> Offer:
        reply = self.transport.request("POST", path, params={"project": project, **where}, json=body)
        return Offer(operation=self._operation_of(reply.operation), secrets=records.operation(reply.metadata).metadata)

    def _change_state(
        self, name: str, project: str, action: str, *, timeout: int = -1, force: bool = False, stateful: bool = False
    ) -> str:
        body = {"action": action, "timeout": timeout, "force": force} | ({"stateful": True} if stateful else {})
        return self._begin("PUT", _path(name, "state"), project, body)

    def _instances(self, where: Mapping[str, str]) -> tuple[Instance, ...]:
        return tuple(records.instance(each) for each in self._get("/1.0/instances", {**where, **_WHOLE_RECORDS}))

    def _space(self, pool: str) -> records.Record:
        """A pool's space, empty where the server refuses to tell."""
        try:
            found: records.Record = self._get(f"/1.0/storage-pools/{_quoted(pool)}/resources", self._here)
        except ServerRefused:
            return {}
        return found


def _described(definition: Definition) -> dict[str, Any]:
    return {"description": definition.description, "config": dict(definition.config)}


def _profile_path(name: str) -> str:
    return f"/1.0/profiles/{_quoted(name)}"


def _member_path(name: str) -> str:
    return f"/1.0/cluster/members/{_quoted(name)}"


def _path(name: str, *rest: str) -> str:
    return "/".join(["/1.0/instances", *(_quoted(part) for part in (name, *rest))])


def _volumes_path(pool: str, *rest: str) -> str:
    return "/".join([f"/1.0/storage-pools/{_quoted(pool)}/volumes/custom", *(_quoted(part) for part in rest)])


def _quoted(part: str) -> str:
    return quote(part, safe="")
