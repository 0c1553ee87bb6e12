"""Instances as their owners make them and as the servers tell of them; and what herder leaves on servers.

Looks at the servers through their unix sockets and at files on their disks, never through herder's own client.
"""

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab import LabServer, RefusedError, host

MARK, GUARD, SNAPSHOT, WRECK = "user.herder.", "herder-guard", "herder-", "-wreck-"

#: Config of a project that has the images and profiles of the default project.
VOLUMES = "/1.0/storage-pools/default/volumes/custom"
OWN_NOTHING = {"features.images": "false", "features.profiles": "false", "features.storage.volumes": "false"}

Record = dict[str, Any]
#: Path -> kind, mode, owner, group, and for files the time in ns and a checksum, for links where they lead.
Tree = dict[str, tuple[object, ...]]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """An instance that a test wants. ``files`` are there before its first start."""

    name: str
    image: str = "tiny"
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profiles: tuple[str, ...] = ("default",)
    project: str = "default"
    description: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    is_started: bool = True


def strip(server: LabServer) -> None:
    """Take everything away that a test has made on it: instances, volumes, profiles, projects, pools, networks."""
    server.delete_all()
    _delete_each(server, VOLUMES)
    for project in server.query("GET", "/1.0/projects?recursion=1"):
        _delete_each(server, f"/1.0/profiles?project={project['name']}")
    for kind in ("projects", "storage-pools"):
        _delete_each(server, f"/1.0/{kind}")
    for network in server.query("GET", "/1.0/networks?recursion=1"):
        if network["managed"]:
            server.query("DELETE", f"/1.0/networks/{network['name']}")


def cleaned(server: LabServer) -> Iterator[LabServer]:
    """A server, empty before, and up and empty after: what a fixture yields from."""
    strip(server)
    yield server
    server.thaw()
    server.start()
    strip(server)


def _delete_each(server: LabServer, listing: str) -> None:
    for url in server.query("GET", listing):
        # The listing of volumes has their snapshots too, which go with them.
        if url.partition("?")[0].rpartition("/")[2] != "default" and "/snapshots/" not in url:
            server.query("DELETE", url)


def make(server: LabServer, wish: Wish) -> None:
    """Make it."""
    body = {
        "name": wish.name,
        "description": wish.description,
        "profiles": list(wish.profiles),
        "config": dict(wish.config),
        "devices": {name: dict(keys) for name, keys in wish.devices.items()},
        "source": {"type": "image", "alias": wish.image},
    }
    server.query("POST", f"/1.0/instances?project={wish.project}", body)
    for path, text in wish.files.items():
        write(server, wish.name, path, text, project=wish.project)
    if wish.is_started:
        start(server, wish.name, project=wish.project)


def start(server: LabServer, name: str, *, project: str = "default") -> None:
    """Start it. Raises RefusedError."""
    _set_state(server, name, project, {"action": "start", "timeout": -1})


def stop(server: LabServer, name: str, *, project: str = "default") -> None:
    """Pull the plug."""
    _set_state(server, name, project, {"action": "stop", "force": True, "timeout": -1})


def _set_state(server: LabServer, name: str, project: str, body: Record) -> None:
    server.query("PUT", f"/1.0/instances/{name}/state?project={project}", body)


def write(server: LabServer, name: str, path: str, text: str, *, project: str = "default") -> None:
    """Put a file into it, running or not; missing folders are made."""
    server.lxc("file", "push", "--project", project, "--create-dirs", "-", f"{name}{path}", input=text)


#: The init of a guest that has something to say when it is told to shut down: 8 MiB that only a final pass can carry.
LAST_WORDS, LAST_WORDS_BYTES = "/root/last-words", 8 * 1024**2
_INIT_WITH_LAST_WORDS = f"""#!/bin/sh
trap 'dd if=/dev/urandom of={LAST_WORDS} bs=1M count=8; exit 0' PWR
while :; do
    sleep 3600 &
    wait $!
done
"""


def make_with_last_words(server: LabServer, name: str, config: Mapping[str, str]) -> None:
    """A running instance that writes 8 MiB while it shuts down."""
    make(server, Wish(name=name, config=config, is_started=False))
    server.lxc("file", "push", "--mode", "755", "-", f"{name}/sbin/init", input=_INIT_WITH_LAST_WORDS)
    start(server, name)


def fill(server: LabServer, name: str, mebibytes: int, *, path: str = "/root/data", device: str = "urandom") -> None:
    """Write random data, or zeros, inside it."""
    server.lxc("exec", name, "--", "dd", f"if=/dev/{device}", f"of={path}", "bs=1M", f"count={mebibytes}")


def take_snapshot(server: LabServer, name: str, snapshot: str, *, project: str = "default") -> None:
    """A snapshot as its owner would take one."""
    server.query("POST", f"/1.0/instances/{name}/snapshots?project={project}", {"name": snapshot})


def delete(server: LabServer, name: str, *, project: str = "default") -> None:
    """Delete a stopped one."""
    server.query("DELETE", f"/1.0/instances/{name}?project={project}")


def find(server: LabServer, name: str, *, project: str = "default") -> Record | None:
    """Its record, or None if there is none."""
    try:
        record: Record = server.query("GET", f"/1.0/instances/{name}?project={project}")
    except RefusedError as error:
        if error.status == 404:
            return None
        raise
    return record


def get(server: LabServer, name: str, *, project: str = "default") -> Record:
    """Its record; fails if there is none."""
    record = find(server, name, project=project)
    assert record is not None, f"{server.name} has no {name}"
    return record


def status(server: LabServer, name: str, *, project: str = "default") -> str:
    """Its status, or "absent"."""
    record = find(server, name, project=project)
    return record["status"] if record else "absent"


def owners_config(record: Record) -> dict[str, str]:
    """Its config as its owner wrote it, with the addresses of its network cards."""
    return {
        key: value
        for key, value in record["config"].items()
        if key.endswith(".hwaddr") or not key.startswith(("volatile.", MARK))
    }


def snapshots(server: LabServer, name: str, *, project: str = "default") -> dict[str, str]:
    """When each of its snapshots was made, by name; to the second, which is how servers tell each other."""
    listed = server.query("GET", f"/1.0/instances/{name}/snapshots?recursion=1&project={project}")
    return {each["name"].rpartition("/")[2]: each["created_at"].rstrip("Z").partition(".")[0] for each in listed}


def rootfs(
    server: LabServer, name: str, *, snapshot: str = "", project: str = "default", pool: str = "default"
) -> Path:
    """Where its files, or those of its snapshot, are on the host."""
    volume = name if project == "default" else f"{project}_{name}"
    below = Path("containers-snapshots", volume, snapshot) if snapshot else Path("containers", volume)
    return server.lxd_dir / "storage-pools" / pool / below / "rootfs"


def volumes(server: LabServer) -> dict[str, Record]:
    """Its custom volumes, by name."""
    listed = server.query("GET", f"{VOLUMES}?recursion=1")
    return {each["name"]: each for each in listed if "/" not in each["name"]}


def make_volume(server: LabServer, name: str, *, description: str = "", **config: str) -> None:
    """An empty custom volume."""
    server.query("POST", VOLUMES, {"name": name, "config": config, "description": description})


def delete_volume(server: LabServer, name: str) -> None:
    """Delete one that nobody attaches."""
    server.query("DELETE", f"{VOLUMES}/{name}")


def volume_snapshots(server: LabServer, name: str) -> set[str]:
    """Names of its snapshots."""
    return {url.rpartition("/")[2] for url in server.query("GET", f"{VOLUMES}/{name}/snapshots")}


def volume_folder(server: LabServer, name: str, *, snapshot: str = "", pool: str = "default") -> Path:
    """Where the files of a custom volume, or of its snapshot, are on the host."""
    kind = "custom-snapshots" if snapshot else "custom"
    return server.lxd_dir / "storage-pools" / pool / kind / f"default_{name}" / snapshot


def tree(root: Path) -> Tree:
    """Everything below a folder; two equal trees are equal in names, kinds, modes, owners and content."""
    assert root.is_dir(), root
    return {str(path.relative_to(root)): _leaf(path) for path in sorted(root.rglob("*"))}


def _leaf(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    about = (stat.filemode(found.st_mode), found.st_uid, found.st_gid)
    if path.is_symlink():
        return (*about, str(path.readlink()))
    if path.is_file():
        return (*about, found.st_mtime_ns, checksum(path))
    return about


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def traces(server: LabServer) -> list[str]:
    """Whatever herder has on a server: profiles, and marks, guards, snapshots on every instance of every project."""
    profiles = [each["name"] for each in server.query("GET", "/1.0/profiles?recursion=1")]
    on_instances = [trace for record in listing(server) for trace in _traces(server, record)]
    return on_instances + [f"profile {name} on {server.name}" for name in profiles if name.startswith("herder-")]


def traces_on(server: LabServer, name: str) -> list[str]:
    """On one instance of the default project, if it is there."""
    return [trace for record in listing(server) if _is(record, name) for trace in _traces(server, record)]


def _is(record: Record, name: str) -> bool:
    return bool(record["project"] == "default" and record["name"] == name)


def wrecks(server: LabServer) -> set[str]:
    """Names of the remains of copies that were set aside because LXD cannot delete them."""
    return {record["name"] for record in listing(server) if WRECK in record["name"]}


def _traces(server: LabServer, record: Record) -> Iterator[str]:
    name = f"{server.name}:{record['name']}"
    yield from (f"mark {key} on {name}" for key in record["config"] if key.startswith(MARK))
    yield from (f"guard on {name}" for device in record["devices"] if device == GUARD)
    taken = snapshots(server, record["name"], project=record["project"])
    yield from (f"snapshot {each} of {name}" for each in taken if each.startswith(SNAPSHOT))


def listing(server: LabServer) -> list[Record]:
    """The records of all its instances, of all projects."""
    found: list[Record] = server.query("GET", "/1.0/instances?recursion=1&all-projects=true")
    return found


def picture(server: LabServer) -> dict[str, object]:
    """All that a refused request must not change on a server; equal pictures mean that nothing was touched."""
    instances = listing(server)
    return {
        "instances": instances,
        "snapshots": {(i["project"], i["name"]): snapshots(server, i["name"], project=i["project"]) for i in instances},
        "operations": operations(server),
    }


def operations(server: LabServer) -> list[Record]:
    """The operations of the default project that have not ended."""
    by_status = server.query("GET", "/1.0/operations?recursion=1")
    return [each for name in ("pending", "running") for each in by_status.get(name, [])]


def wait_until_forgotten(server: LabServer) -> None:
    """Return when the server knows of no operation at all: it forgets each 5 s after its end."""
    host.wait_until(
        f"{server.name} to forget its operations",
        lambda: not any(server.query("GET", "/1.0/operations").values()),
        seconds=60,
    )


def has_migrated(server: LabServer) -> bool:
    """Whether a transfer is under way from it."""
    return any(each["description"] == "Migrating instance" for each in operations(server))


def runs(server: LabServer, name: str) -> bool:
    """Whether its processes live, whatever its server says or whether it answers at all."""
    monitor = f"[lxc monitor] {server.lxd_dir}/containers {name}"
    machines = {f"{server.lxd_dir}/{place}/{name}/qemu.conf" for place in ("logs", "run")}  # of LXD, of Incus
    processes = host.processes()
    monitors = [process for process in processes if process.command == monitor]
    return bool(host.descendants(monitors)) or any(_emulates(process, machines) for process in processes)


def _emulates(process: host.Process, machines: set[str]) -> bool:
    return process.program == "qemu-system-x86_64" and not machines.isdisjoint(process.command.split())


def assert_moved(source: LabServer, target: LabServer, name: str, *, data: str = "") -> None:
    """It runs on the target and nowhere else, with nothing of herder's; the source is kept and cannot start.

    ``data`` is the checksum that its /root/data must have.
    """
    assert status(source, name) == "Stopped"
    assert status(target, name) == "Running"
    assert runs(target, name)
    assert not runs(source, name)
    assert traces_on(target, name) == []
    assert [snap for snap in snapshots(source, name) if snap.startswith(SNAPSHOT)] == []
    assert get(source, name)["config"][f"{MARK}state"] == "retired"
    assert_cannot_start(source, name)
    if data:
        assert checksum(rootfs(target, name) / "root/data") == data


def assert_untouched(source: LabServer, target: LabServer, name: str) -> None:
    """It runs on the source as if nothing had been, and the target has nothing of it; all in the default project."""
    assert status(source, name) == "Running"
    assert runs(source, name)
    assert status(target, name) == "absent"
    assert traces_on(source, name) == []
    assert traces_on(target, name) == []


def assert_cannot_start(server: LabServer, name: str) -> None:
    """Its server refuses to start it because of the guard."""
    with pytest.raises(RefusedError, match=GUARD):
        start(server, name)
    assert status(server, name) == "Stopped"


def restart_daemon(server: LabServer) -> None:
    """Kill the daemon and start it again; returns when it has started whatever it starts at boot.

    It starts them one after the other by priority and name, so the last of them tells.
    """
    last = "zz-last"
    make(server, Wish(name=last, config={"boot.autostart": "true", "boot.autostart.priority": "-1"}, is_started=False))
    server.kill()
    server.start()
    host.wait_until(
        f"{server.name} to start what starts at boot", lambda: status(server, last) == "Running", seconds=90
    )
    stop(server, last)
    delete(server, last)
