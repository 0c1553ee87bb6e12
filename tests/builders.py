"""Values for tests, with defaults that read well: a test overrides only what it is about.

The world of the defaults: ``web1`` runs on server ``s1`` with profile ``default``, pool ``default`` and network
``lxdbr0``, and shall move to ``s2``, which has all of that too.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from common.domain.archive import Format, Manifest
from common.domain.eligibility import REQUIRED_EXTENSIONS, VOLUME_EXTENSIONS
from common.domain.fleet import Fleet, Member, Pool, Profile, Server, ServerInfo
from common.domain.generation import BackupOrder
from common.domain.instance import GUARD_DEVICE, Instance
from common.domain.itinerary import ITINERARIES
from common.domain.job import Job, JobError, State
from common.domain.plan import (
    AfterGrace,
    Finding,
    Health,
    Limits,
    Method,
    Mode,
    Move,
    Overrides,
    Plan,
    Policy,
    Refusal,
    Request,
    Retire,
    Selection,
)
from common.domain.volume import AttachedVolume, Volume, Volumes
from common.domain.volume_ways import VOLUME_BACKUP_EXTENSIONS

#: The moment at which tests begin.
NOW = datetime(2025, 6, 1, 1, 0, tzinfo=UTC)
GIB = 1024**3

ROOT_DISK = {"type": "disk", "path": "/", "pool": "default"}
NIC = {"type": "nic", "network": "lxdbr0", "name": "eth0"}
VOLUME_DISK = {"type": "disk", "pool": "default", "source": "data", "path": "/data"}


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, moment: datetime = NOW) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, by: timedelta) -> None:
        """Let time pass."""
        self.moment += by


def an_instance(name: str = "web1", **changes: Any) -> Instance:
    """A running container with one NIC; ``devices`` and ``config`` are local ones and show up expanded too."""
    config = {"volatile.uuid": f"uuid-of-{name}", **changes.pop("config", {})}
    devices: Mapping[str, Mapping[str, str]] = changes.pop("devices", {})
    expanded = changes.pop("expanded_devices", {"root": ROOT_DISK, "eth0": NIC, **devices})
    defaults: dict[str, Any] = {"status": "Running", "created_at": NOW - timedelta(days=30)}
    return Instance(
        name=name,
        config=config,
        expanded_config=config | changes.pop("expanded_config", {}),
        devices=devices,
        expanded_devices=expanded,
        **(defaults | changes),
    )


def a_volume(name: str = "data", **changes: Any) -> Volume:
    """A custom volume of pool ``default`` that ``web1`` attaches."""
    return Volume(**{"pool": "default", "name": name, "used_by": ("/1.0/instances/web1",), **changes})


def volumes_by_key(*volumes: Volume) -> Volumes:
    """As a server has them."""
    return {(each.pool, each.project, each.name): each for each in volumes}


def a_retired_instance(name: str = "web1", *, job: str = "p0-1", **changes: Any) -> Instance:
    """What a move leaves behind: stopped, marked and guarded."""
    marks = {"user.herder.job": job, "user.herder.state": "retired"}
    guard = {GUARD_DEVICE: {"type": "unix-char", "source": "/dev/herder-guard", "required": "true"}}
    return an_instance(name, **({"status": "Stopped", "config": marks, "devices": guard} | changes))


def a_server_info(remote: str = "s2", **changes: Any) -> ServerInfo:
    """What a current LXD tells that trusts us."""
    defaults: dict[str, Any] = {
        "name": f"host-of-{remote}",
        "product": "lxd",
        "version": "5.0.2",
        "pid": 4711,
        "trusted": True,
        "extensions": REQUIRED_EXTENSIONS | VOLUME_EXTENSIONS | VOLUME_BACKUP_EXTENSIONS,
        "architectures": ("x86_64", "i686"),
        "addresses": ("127.0.0.1:8443",),
        "certificate": f"certificate of {remote}",
        "qemu": "7.2.22",
    }
    return ServerInfo(**(defaults | changes))


def a_server(remote: str = "s2", *instances: Instance, **changes: Any) -> Server:
    """A server with pool ``default`` (100 GiB, half used), profile ``default`` and network ``lxdbr0``."""
    info = changes.pop("info", None) or a_server_info(remote)
    defaults: dict[str, Any] = {
        "pools": {"default": Pool(name="default", driver="btrfs", total=100 * GIB, used=50 * GIB)},
        "profiles": {
            "default": {"default": Profile(name="default", devices={"root": ROOT_DISK, "eth0": NIC})},
        },
        "networks": {"default": frozenset({"lxdbr0"})},
    }
    return Server(remote=remote, info=info, instances=instances, **(defaults | changes))


def a_member(name: str = "c3", *, driver: str = "btrfs", free: int = 50, **changes: Any) -> Server:
    """A member of the cluster ``s1`` with ``c2``, where instances are, and ``c3``; ``free`` GiB in its own pool."""
    members = {each: Member(name=each, address=f"https://{each}:8443", status="Online") for each in ("c2", "c3")}
    pools = {"default": Pool(name="default", driver=driver, total=100 * GIB, used=(100 - free) * GIB)}
    defaults: dict[str, Any] = {"info": a_server_info("s1", clustered=True), "members": members, "pools": pools}
    return a_server("s1", member=name, **(defaults | changes))


def a_lone_move(method: Method = Method.VOLUME_MOVE, **changes: Any) -> Move:
    """The custom volume ``default/data`` by itself from s1 to s2."""
    data = AttachedVolume(pool="default", name="data", target_pool="default")
    names = {"instance": "default/data", "name": "default/data", "type": "volume"}
    return a_move(method=method, volumes=(data,), **{**names, **changes})


def a_move_within_cluster(instance: str = "web1", **changes: Any) -> Move:
    """A warm move of a container from the member ``c2`` of the cluster ``s1`` to ``c3``."""
    return a_move(instance, **({"target": "s1", "source_member": "c2", "target_member": "c3"} | changes))


def a_fleet(*servers: Server) -> Fleet:
    """These servers, or ``s1`` with ``web1`` and an empty ``s2``, as seen at ``NOW``."""
    seen = servers or (a_server("s1", an_instance()), a_server("s2"))
    return Fleet(seen_at=NOW, servers={server.place: server for server in seen})


def a_request(*instances: str, **changes: Any) -> Request:
    """To move these instances (all if none is named) from ``s1`` to ``s2``."""
    defaults: dict[str, Any] = {
        "name": "empty s1",
        "select": Selection(source="s1", instances=instances),
        "targets": ("s2",),
    }
    return Request(**(defaults | changes))


def a_move(instance: str = "web1", **changes: Any) -> Move:
    """A warm move of a container from ``s1`` to ``s2`` under its own name."""
    defaults: dict[str, Any] = {
        "source": "s1",
        "target": "s2",
        "name": instance,
        "identity": f"uuid-of-{instance}",
        "pool": "default",
    }
    return Move(instance=instance, **(defaults | changes))


def an_order(**changes: Any) -> BackupOrder:
    """A run of the policy ``nightly`` at ``NOW``."""
    defaults: dict[str, Any] = {"policy": "nightly", "at": NOW}
    return BackupOrder(**(defaults | changes))


def a_generation(of: str = "web1", **changes: Any) -> Instance:
    """What a run at ``NOW`` has made of an instance of ``s1``; ``state`` and ``marks`` may be others."""
    source, order = f"s1:default/{of}", an_order()
    config = {
        "user.herder-backup": order.policy,
        "user.herder-backup-of": source,
        "user.herder-backup-at": NOW.isoformat(),
        "user.herder-backup-state": changes.pop("state", "complete"),
        **changes.pop("marks", {}),
    }
    guard = {GUARD_DEVICE: {"type": "unix-char", "source": "/dev/herder-guard", "required": "true"}}
    name = changes.pop("name", order.generation_of(source))
    return an_instance(name, **({"status": "Stopped", "config": config, "devices": guard, "profiles": ()} | changes))


def a_manifest(instance: str = "web1", **changes: Any) -> Manifest:
    """The export of a container from ``s1`` at ``NOW``."""
    defaults: dict[str, Any] = {
        "file": f"{instance}-{NOW:%Y%m%dT%H%M%SZ}.tar",
        "source": "s1",
        "size": GIB,
        "sha256": "0" * 64,
        "format": Format(driver="btrfs"),
        "created_at": NOW,
        "job": "p1-1",
        "architecture": "x86_64",
        "profiles": ("default",),
        "config": {"volatile.uuid": f"uuid-of-{instance}"},
        "pool": "default",
    }
    return Manifest(instance=instance, **(defaults | changes))


def a_plan(*moves: Move, **changes: Any) -> Plan:
    """A plan with these moves, or the one of ``web1``; its id is ``p1``."""
    chosen = moves or (a_move(),)
    defaults: dict[str, Any] = {
        "id": "p1",
        "name": "empty s1",
        "created_at": NOW,
        "request": a_request(*(move.instance for move in chosen)),
    }
    return Plan(moves=chosen, **(defaults | changes))


def many_moves(count: int, **changes: Any) -> tuple[Move, ...]:
    """Moves of ``c1``, ``c2`` and so on."""
    return tuple(a_move(f"c{number + 1}", **changes) for number in range(count))


def a_job(step: str = "", *, method: Method = Method.WARM, itinerary: str = "", **changes: Any) -> Job:
    """The job of ``web1``, queued at ``step`` of its method's itinerary or of the given one; the first if left out."""
    job = Job.of_move(a_plan(changes.pop("move", a_move(method=method))), 0, NOW)
    way = ITINERARIES[itinerary] if itinerary else job.forward
    return replace(job, itinerary=way.name, step=way.step(step).name if step else way.steps[0].name, **changes)


def a_running_job(step: str = "", **changes: Any) -> Job:
    """The job of ``web1`` in the hands of a worker."""
    return a_job(step, state=State.RUNNING, started_at=NOW, **changes)


def an_error(code: str = "server_refused", **changes: Any) -> JobError:
    """An error as a job stores it."""
    return JobError(code=code, **({"message": f"told as {code}", "hint": f"do something about {code}"} | changes))


def a_full_plan() -> Plan:
    """A plan in which every field differs from its default: what must survive any round trip."""
    request = a_request(
        "web1",
        targets=("s2", "s3"),
        rename="web2",
        target_project="shop",
        select=Selection(
            source="s1",
            project="old",
            instances=("web1",),
            match={"user.tier": "web*"},
            filter="status eq Running",
            all_projects=True,
        ),
        policy=a_full_policy(),
        limits=Limits(per_source=3, per_target=5, cutovers=7),
        overrides=Overrides(
            config={"limits.cpu": "4"},
            devices={"eth0": {"type": "nic", "network": "br1"}},
            profiles=("default", "ssd"),
            storage="fast",
            instance_only=True,
            allow_inconsistent=True,
            ephemeral=True,
        ),
    )
    move = a_move(
        project="old",
        target_project="shop",
        name="web2",
        type="container",
        method=Method.COLD,
        reason="the only one that can take it (s3: it is full)",
        policy=request.policy,
        overrides=request.overrides,
    )
    refusal = Refusal(instance="db1", source="s1", project="old", findings=(a_finding(),))
    return a_plan(move, request=request, refusals=(refusal,), warnings=("web1: careful",), fingerprint="f1")


def a_full_policy() -> Policy:
    """A policy in which every field differs from its default, as far as there is another value."""
    return Policy(
        method=Method.COLD,
        downtime=timedelta(milliseconds=2500),
        grace=timedelta(minutes=5),
        after_grace=AfterGrace.GIVE_BACK,
        retire=Retire.DELETE,
        mode=Mode.PUSH,
        stall=timedelta(minutes=7),
        health=Health(command=("systemctl", "is-system-running"), timeout=timedelta(seconds=90)),
    )


def a_finding(code: str = "pool", **changes: Any) -> Finding:
    """Something that stands in the way."""
    return Finding(code=code, **({"message": f"told as {code}", "hint": f"mend {code}"} | changes))
