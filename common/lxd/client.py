"""The calls of the LXD REST API that herder makes, one typed method each."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from common.domain.errors import InputError, NotFound, NotTrusted, ServerBusy, ServerRefused
from common.domain.fleet import Pool, Profile, ServerInfo
from common.domain.instance import Config, Devices, Instance, Snapshot
from common.domain.operation import Operation
from common.lxd import migration, records
from common.lxd.migration import Offer, Transfer
from common.lxd.transport import Transport

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_WHOLE_RECORDS: Mapping[str, str] = MappingProxyType({"recursion": "1"})
# How much longer than the server's own waiting we wait for its answer.
_GRACE_OF_WAIT = 10.0
_IS_THERE = "profile already exists"
_SAVED_ALL_THE_SAME = "profile change still saved"
_NO_ROOT = "no such file or directory"


class LxdClient:
    """One server. Safe to share between threads.

    What returns an operation's id has only begun when it returns. All may raise ServerUnreachable, ServerBusy,
    NotTrusted, NotFound and ServerRefused.

    ===================  ==============================================================
    info                 GET /1.0
    projects             GET /1.0/projects
    instances            GET /1.0/instances?recursion=1
    instance             GET /1.0/instances/NAME
    snapshots            GET /1.0/instances/NAME/snapshots?recursion=1
    has_files            GET /1.0/instances/NAME/files?path=/
    used_space           GET /1.0/instances/NAME/state
    pools                GET /1.0/storage-pools?recursion=1, GET /1.0/storage-pools/POOL/resources
    profiles             GET /1.0/profiles?recursion=1
    profile              GET /1.0/profiles/NAME
    create_profile       POST /1.0/profiles
    replace_profile      PUT /1.0/profiles/NAME
    refused_config       POST /1.0/profiles
    delete_profile       DELETE /1.0/profiles/NAME
    networks             GET /1.0/networks
    volumes              GET /1.0/storage-pools, GET /1.0/storage-pools/POOL/volumes/custom
    create_snapshot      POST /1.0/instances/NAME/snapshots
    delete_snapshot      DELETE /1.0/instances/NAME/snapshots/SNAPSHOT
    start, stop,         PUT /1.0/instances/NAME/state
    force_stop,
    freeze, unfreeze
    patch                PATCH /1.0/instances/NAME
    replace              PUT /1.0/instances/NAME
    rename, offer        POST /1.0/instances/NAME
    delete               DELETE /1.0/instances/NAME
    receive              POST /1.0/instances
    execute              POST /1.0/instances/NAME/exec
    operation            GET /1.0/operations/ID
    wait                 GET /1.0/operations/ID/wait
    operations           GET /1.0/operations?recursion=1
    cancel               DELETE /1.0/operations/ID
    ===================  ==============================================================
    """

    def __init__(self, remote_name: str, transport: Transport) -> None:
        self.remote = remote_name
        self.transport = transport

    def info(self) -> ServerInfo:
        """What the server is; answered even to those whom it does not trust."""
        return records.server_info(self._get("/1.0"))

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

    def pools(self, *, member: str | None = None) -> tuple[Pool, ...]:
        """The storage pools, with their space on this member of a cluster."""
        return tuple(
            records.pool(each, self._space(each["name"], member))
            for each in self._get("/1.0/storage-pools", _WHOLE_RECORDS)
        )

    def profiles(self, *, project: str = "default") -> tuple[Profile, ...]:
        """The profiles that instances of a project may use."""
        found = self._get("/1.0/profiles", {"project": project, **_WHOLE_RECORDS})
        return tuple(records.profile(each) for each in found)

    def profile(self, name: str, *, project: str = "default") -> Profile:
        """One profile with its ETag. Raises NotFound."""
        reply = self.transport.request("GET", _profile_path(name), params={"project": project})
        return records.profile(reply.metadata, etag=reply.etag)

    def create_profile(self, name: str, *, description: str = "", project: str = "default") -> None:
        """Make an empty profile, at once. Raises ServerRefused if there is one of that name."""
        body = {"name": name, "description": description}
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

    def networks(self, *, project: str = "default") -> frozenset[str]:
        """Names of the networks that NICs of a project may use, the host's own interfaces included."""
        return records.names(self._get("/1.0/networks", {"project": project}))

    def volumes(self, *, project: str = "default") -> frozenset[tuple[str, str, str]]:
        """``(pool, project, volume)`` of every custom volume that instances of a project may attach."""
        pools = records.names(self._get("/1.0/storage-pools"))
        return frozenset((pool, project, volume) for pool in pools for volume in self._volumes_of(pool, project))

    def create_snapshot(self, name: str, snapshot: str, *, project: str = "default") -> str:
        """Begin a snapshot without memory."""
        return self._begin("POST", _path(name, "snapshots"), project, {"name": snapshot, "stateful": False})

    def delete_snapshot(self, name: str, snapshot: str, *, project: str = "default") -> str:
        """Begin to delete a snapshot. Raises NotFound."""
        return self._begin("DELETE", _path(name, "snapshots", snapshot), project)

    def start(self, name: str, *, project: str = "default") -> str:
        """Begin to start it; the operation fails if it runs already."""
        return self._change_state(name, project, "start")

    def stop(self, name: str, *, grace_seconds: int, project: str = "default") -> str:
        """Ask the guest to shut down; the operation fails after the grace if it did not, and the guest runs on."""
        if grace_seconds <= 0:
            raise InputError(f"{name}: a grace of {grace_seconds} s would pull the plug", hint="give at least 1 s")
        return self._change_state(name, project, "stop", timeout=grace_seconds)

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
        self.transport.request("PATCH", _path(name), params={"project": project}, json=body, headers=headers)

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

    def receive(self, body: Mapping[str, Any], *, target_member: str | None = None, project: str = "default") -> str:
        """Begin to receive a copy (``migration.receive_body``), in a cluster on this member.

        The copy is there from the first moment, looks stopped and complete, and is neither.
        """
        where = {"project": project} | ({"target": target_member} if target_member else {})
        return self._operation_of(self.transport.request("POST", "/1.0/instances", params=where, json=body).operation)

    def await_push(self, body: Mapping[str, Any], *, project: str = "default") -> Offer:
        """As ``receive``, but wait for the source to dial. LXD gives up after 10 s, and removes a new copy then."""
        return self._offered("/1.0/instances", project, body)

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
        """HTTPS addresses at which other servers may reach this one, the one that we use ourselves first.

        ``info`` saves the asking.
        """
        told = tuple(f"https://{address}" for address in (info or self.info()).addresses)
        ours = self.transport.address
        return (ours, *(each for each in told if each != ours)) if ours.startswith("https:") else told

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

    def _offered(self, path: str, project: str, body: Mapping[str, Any]) -> Offer:
        reply = self.transport.request("POST", path, params={"project": project}, json=body)
        return Offer(operation=self._operation_of(reply.operation), secrets=records.operation(reply.metadata).metadata)

    def _change_state(self, name: str, project: str, action: str, *, timeout: int = -1, force: bool = False) -> str:
        body = {"action": action, "timeout": timeout, "force": force}
        return self._begin("PUT", _path(name, "state"), project, body)

    def _instances(self, where: Mapping[str, str]) -> tuple[Instance, ...]:
        return tuple(records.instance(each) for each in self._get("/1.0/instances", {**where, **_WHOLE_RECORDS}))

    def _volumes_of(self, pool: str, project: str) -> frozenset[str]:
        return records.names(self._get(f"/1.0/storage-pools/{_quoted(pool)}/volumes/custom", {"project": project}))

    def _space(self, pool: str, member: str | None) -> records.Record:
        """A pool's space, empty where the server refuses to tell."""
        where = {"target": member} if member else {}
        try:
            found: records.Record = self._get(f"/1.0/storage-pools/{_quoted(pool)}/resources", where)
        except ServerRefused:
            return {}
        return found


def _profile_path(name: str) -> str:
    return f"/1.0/profiles/{_quoted(name)}"


def _path(name: str, *rest: str) -> str:
    return "/".join(["/1.0/instances", *(_quoted(part) for part in (name, *rest))])


def _quoted(part: str) -> str:
    return quote(part, safe="")
