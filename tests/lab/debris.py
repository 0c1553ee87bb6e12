"""Getting a server back to empty, also after daemons were killed in the middle of transfers.

LXD does not clean up after a killed daemon (seen with 5.0.2):

- On btrfs the record of an instance whose snapshots came, but not its volume, cannot be deleted: LXD makes the
  missing directory and then fails because it is not a subvolume. Once the empty directory is gone, the deletion works.
- A refresh that is cancelled between a snapshot and the volume may leave the snapshot's volume without the snapshot's
  record. Then the instance cannot be deleted ("Cannot remove a volume that has snapshots") until LXD's database forgets
  it.
- On dir a snapshot that was being sent stays mounted read-only, and its instance cannot be deleted.
- What was being received stays below the pool as `migration.*`, known to no record.

The lab is root on the host, so it can take all of that away.
"""

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.lab import api, host
from tests.lab.daemon import Daemon
from tests.lab.errors import RefusedError

AT_ONCE = 8
PATIENCE = 5  # seconds for an operation to end that cannot be cancelled
VOLUMES = ("containers", "containers-snapshots", "virtual-machines", "virtual-machines-snapshots")
SUBVOLUME = 256  # inode number of the root of every btrfs subvolume, and of nothing else on btrfs


def clear(daemons: Mapping[str, Daemon]) -> None:
    """Delete every instance of every project, herder's profiles, and then what is left of them on disk.

    `daemons` by location, as LXD names it: all members of a cluster, or one standalone server as "none". All must run.
    Raises LabError with what LXD said if something would not go.
    """
    for daemon in daemons.values():
        _end_operations(daemon)
    any_daemon = next(iter(daemons.values()))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda instance: _delete(daemons[instance["location"]], instance), _instances(any_daemon)))
    _delete_profiles(any_daemon)
    _forget_volumes(any_daemon)
    for daemon in daemons.values():
        _sweep(daemon)


def _delete_profiles(daemon: Daemon) -> None:
    """Those that herder has made."""
    for project in api.call(daemon.socket, "GET", "/1.0/projects"):
        where = f"?project={project.rpartition('/')[2]}"
        for profile in api.call(daemon.socket, "GET", f"/1.0/profiles{where}"):
            name = profile.split("?")[0].rpartition("/")[2]
            if name.startswith("herder-"):
                with suppress(RefusedError):  # a project without profiles of its own shows those of the default one
                    api.call(daemon.socket, "DELETE", f"/1.0/profiles/{name}{where}")


def _end_operations(daemon: Daemon) -> None:
    """Cancel what can be cancelled, await the rest; if it will not end, kill the daemon, which makes it forget them."""
    deadline = time.monotonic() + PATIENCE
    while running := _operations(daemon):
        for operation in running:
            if operation["may_cancel"]:
                with suppress(RefusedError):  # it has just ended
                    api.call(daemon.socket, "DELETE", f"/1.0/operations/{operation['id']}")
        if time.monotonic() > deadline:
            daemon.kill()
            daemon.spawn()
            daemon.wait_ready()
            return
        time.sleep(0.05)


def _operations(daemon: Daemon) -> list[dict[str, Any]]:
    by_status = api.call(daemon.socket, "GET", "/1.0/operations?recursion=1&all-projects=true")
    return [operation for status in ("pending", "running") for operation in by_status.get(status, [])]


def _instances(daemon: Daemon) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = api.call(daemon.socket, "GET", "/1.0/instances?recursion=1&all-projects=true")
    return listed


def _delete(daemon: Daemon, instance: dict[str, Any]) -> None:
    url = f"/1.0/instances/{quote(instance['name'])}"
    project = f"?project={quote(instance['project'])}"
    if instance["status"] != "Stopped":
        with suppress(RefusedError):  # it may just have stopped; if not, the deletion says so
            api.call(daemon.socket, "PUT", f"{url}/state{project}", {"action": "stop", "force": True, "timeout": 10})
    if (instance.get("expanded_config") or {}).get("security.protection.delete") == "true":
        api.call(daemon.socket, "PATCH", f"{url}{project}", {"config": {"security.protection.delete": "false"}})
    try:
        api.call(daemon.socket, "DELETE", f"{url}{project}")
    except RefusedError:
        if _is_gone(daemon, f"{url}{project}"):  # its own server was just removing what a broken transfer had left
            return
        _forget_volumes_of_snapshots(daemon, instance["name"])
        in_project = "" if instance["project"] == "default" else f"{instance['project']}_"
        _mend(daemon, in_project + instance["name"])
        api.call(daemon.socket, "DELETE", f"{url}{project}")


def _forget_volumes(daemon: Daemon) -> None:
    """Those whose instances are gone: a daemon that is killed while it deletes one leaves the volume's record."""
    if api.call(daemon.socket, "GET", "/1.0/storage-pools/default/volumes/container?all-projects=true"):
        daemon.sql("DELETE FROM storage_volumes WHERE type = 0 AND name NOT IN (SELECT name FROM instances)")


def _forget_volumes_of_snapshots(daemon: Daemon, name: str) -> None:
    """Those whose snapshots have gone with the attempt to delete the instance."""
    _remove(_pool(daemon) / "containers-snapshots" / name, may_have_subvolumes=_pool(daemon).is_mount())
    volumes = f"(SELECT id FROM storage_volumes WHERE name = '{name}')"  # noqa: S608 - LXD allows no quote in a name
    daemon.sql(f"DELETE FROM storage_volumes_snapshots WHERE storage_volume_id IN {volumes}")  # noqa: S608


def _is_gone(daemon: Daemon, url: str) -> bool:
    try:
        api.call(daemon.socket, "GET", url)
    except RefusedError as error:
        return error.status == HTTPStatus.NOT_FOUND
    return False


def _mend(daemon: Daemon, volume: str) -> None:
    """Make it possible to delete a volume that LXD fails on."""
    for kind in VOLUMES:
        place = _pool(daemon) / kind / volume
        host.unmount_under(place)
        if not (place / "rootfs").exists():
            # A rename writes this even where there is no volume; what else could be in there is data.
            (place / "backup.yaml").unlink(missing_ok=True)
        with suppress(OSError):  # not there, or not empty: then this is not what is wrong with it
            place.rmdir()


def _sweep(daemon: Daemon) -> None:
    """Remove what no record knows; with no instance left, that is everything below the instances' directories."""
    for kind in VOLUMES:
        for orphan in (_pool(daemon) / kind).iterdir():
            host.unmount_under(orphan)
            _remove(orphan, may_have_subvolumes=_pool(daemon).is_mount())
    links = [daemon.folder / "containers", *daemon.folder.glob("*snapshots")]
    for link in (link for folder in links for link in folder.iterdir()):
        _remove(link, may_have_subvolumes=False)


def _remove(path: Path, *, may_have_subvolumes: bool) -> None:
    if may_have_subvolumes:
        for subvolume in sorted(_subvolumes(path), reverse=True):  # what is inside another comes first
            host.run("btrfs", "subvolume", "delete", str(subvolume), check=False)  # LXD may have been quicker
    host.run("rm", "--recursive", "--force", "--one-file-system", str(path))


def _subvolumes(path: Path) -> list[Path]:
    """Those at and below a path, as far as LXD is not removing them at this moment."""
    below = [Path(folder) / name for folder, names, _ in os.walk(path) for name in names]
    return [place for place in (path, *below) if _inode(place) == SUBVOLUME]


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _pool(daemon: Daemon) -> Path:
    return daemon.folder / "storage-pools" / "default"
