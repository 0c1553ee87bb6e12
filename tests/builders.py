"""Values for tests, with defaults that read well: a test overrides only what it is about.

The world of the defaults: ``web1`` runs on server ``s1`` with profile ``default``, pool ``default`` and network
``lxdbr0``, and shall move to ``s2``, which has all of that too.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from common.domain.eligibility import REQUIRED_EXTENSIONS
from common.domain.fleet import Fleet, Pool, Profile, Server, ServerInfo
from common.domain.instance import GUARD_DEVICE, Instance
from common.domain.itinerary import FORWARD, ITINERARIES
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

#: The moment at which tests begin.
NOW = datetime(2025, 6, 1, 1, 0, tzinfo=UTC)
GIB = 1024**3

ROOT_DISK = {"type": "disk", "path": "/", "pool": "default"}
NIC = {"type": "nic", "network": "lxdbr0", "name": "eth0"}


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
        "extensions": REQUIRED_EXTENSIONS,
        "architectures": ("x86_64", "i686"),
        "addresses": ("127.0.0.1:8443",),
        "certificate": f"certificate of {remote}",
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


def a_fleet(*servers: Server) -> Fleet:
    """These servers, or ``s1`` with ``web1`` and an empty ``s2``, as seen at ``NOW``."""
    seen = servers or (a_server("s1", an_instance()), a_server("s2"))
    return Fleet(seen_at=NOW, servers={server.remote: server for server in seen})


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


def a_job(step: str = "check_source", *, method: Method = Method.WARM, itinerary: str = "", **changes: Any) -> Job:
    """The job of ``web1``, queued at ``step`` of its method's itinerary or of the given one."""
    job = Job.of_move(a_plan(changes.pop("move", a_move(method=method))), 0, NOW)
    way = ITINERARIES[itinerary] if itinerary else FORWARD[job.move.method]
    return replace(job, itinerary=way.name, step=way.step(step).name, **changes)


def a_running_job(step: str = "check_source", **changes: Any) -> Job:
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
