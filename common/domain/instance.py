"""The facts of one instance, as a server told them at one moment. Built by ``common.lxd.records``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

#: Marks that herder writes on instances, and devices that it adds, begin with these.
MARK_PREFIX = "user.herder."
GUARD_DEVICE = "herder-guard"
#: Of what type the guard is, by the type of its instance: a virtual machine starts in spite of a missing unix-char.
GUARD_TYPES = {"container": "unix-char", "virtual-machine": "usb"}
#: The name of a wreck begins with the instance's own and this, with the job; a number follows.
WRECK = "{}-wreck-{}-"
#: Within a cluster, where a name exists once: that of a copy until it is the instance, and that of the source after it.
COPY, RETIRED = "{}-copy-{}", "{}-retired-{}"
#: What a copy was before its refresh: the instance's name and the job.
KEPT = "{}-kept-{}"
#: The name of what is made of a backup until it is verified: of the instance, the job, and the number of the try.
IMPORTED = "{}-import-{}-{}"
#: On a copy that herder has made: the identity of its source. It stays, and a refresh asks for it.
COPY_OF = "user.herder-copy-of"
#: The mark of a copy that was there before its job, and of what it was: no job and no janitor may delete both.
REFRESHED = "refreshed"
#: On a copy that was refreshed: the last job that did it. On one that was put back as it was: that no refresh of LXD
#: can build upon it, because its snapshots are copies of those that were received.
REFRESHED_BY, PUT_BACK = "user.herder-refreshed-by", "user.herder-put-back"
#: On an instance that has left its evacuated member: that member, to which a restore brings it back.
HOME = "user.herder-evacuated-from"
#: The same in LXD's own words, by which its own restore brings an instance back; it is not copied unless it is said.
ORIGIN = "volatile.evacuate.origin"
#: On an instance that was started from its backup: ``REMOTE:PROJECT/INSTANCE``, where its home is.
FAILED_OVER = "user.herder-failed-over-from"
#: On the same: the job that did it.
FAILED_OVER_BY = "user.herder-failed-over-by"
#: The role of what a failover has left at home, stopped and guarded; and its name once the instance is home again.
STALE_ROLE, STALE = "stale", "{}-stale-{}"
#: By which cloud-init knows the machine, and the mark that remembers it: servers give a copy another one.
INSTANCE_ID, INSTANCE_ID_MARK = "volatile.cloud-init.instance-id", f"{MARK_PREFIX}instance-id"
#: The mark of an instance in which a hook before a snapshot has begun, and that after it has not ended: with the job.
HOOK_MARK = "hook"
#: On staging copies and generations: ``staging``, ``making`` or ``complete``.
BACKUP_STATE = "user.herder-backup-state"

_NIC_ADDRESS = re.compile(r"^volatile\.(?P<device>.+)\.hwaddr$")
_IDENTITY_KEYS = ("volatile.base_image", "volatile.uuid", "volatile.cloud-init.instance-id")

Config = Mapping[str, str]
Devices = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One snapshot of an instance; ``name`` without the instance's name."""

    name: str
    created_at: datetime
    stateful: bool = False
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance. ``config`` holds its own keys, ``expanded_*`` also those of its profiles."""

    name: str
    project: str = "default"
    type: str = "container"
    status: str = "Stopped"
    architecture: str = "x86_64"
    description: str = ""
    ephemeral: bool = False
    stateful: bool = False
    profiles: tuple[str, ...] = ("default",)
    config: Config = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    expanded_config: Config = field(default_factory=dict)
    expanded_devices: Devices = field(default_factory=dict)
    location: str = ""
    created_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    last_used_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    snapshots: tuple[Snapshot, ...] | None = None
    etag: str = ""

    @property
    def is_running(self) -> bool:
        return self.status == "Running"

    @property
    def is_stopped(self) -> bool:
        return self.status == "Stopped"

    @property
    def is_virtual_machine(self) -> bool:
        return self.type == "virtual-machine"

    @property
    def is_guarded(self) -> bool:
        """Whether herder's guard device, its own or that of a profile, keeps it from starting."""
        guard = self.devices.get(GUARD_DEVICE) or self.expanded_devices.get(GUARD_DEVICE, {})
        return guard.get("type") == GUARD_TYPES[self.type]

    @property
    def is_handed_over(self) -> bool:
        """Whether its guard says that the target is the instance now. A guard in a profile brings its state along."""
        return self.is_guarded and self.expanded_config.get(f"{MARK_PREFIX}state") in ("handed-over", "retired")

    @property
    def is_retired(self) -> bool:
        """Whether it is what a move has left behind; without the guard a person has brought it back to life."""
        return self.is_guarded and self.marks.get("state") == "retired"

    @property
    def is_stale(self) -> bool:
        """Whether it is what a failover has left at home: not the instance any more, and nobody has its last writes."""
        return self.is_retired and self.is_stopped and self.marks.get("role") == STALE_ROLE

    @property
    def is_wreck(self) -> bool:
        """Whether it is what a broken copy has left and a job has set aside: it looks like an instance and is none."""
        job = self.marks.get("job", "")
        return bool(job) and self.is_guarded and WRECK.format("", job) in self.name

    @property
    def is_backup(self) -> bool:
        """Whether it belongs to a backup, as its staging copy or as a generation: nobody's instance."""
        return BACKUP_STATE in self.config

    @property
    def stays_with_member(self) -> bool:
        """Whether its owner wants it stopped, not moved, when its member is evacuated."""
        return self.expanded_config.get("cluster.evacuate", "") in ("stop", "stateful-stop", "force-stop")

    @property
    def home(self) -> str:
        """The evacuated member that it has left, by herder or by LXD itself; ``""`` if it is where it belongs."""
        return self.config.get(HOME) or self.config.get(ORIGIN, "")

    @property
    def is_stranded(self) -> bool:
        """Whether LXD itself has stopped it to evacuate a member, and then failed to move it: it shall run."""
        ran = self.config.get("volatile.last_state.power") == "RUNNING"
        return self.is_stopped and ran and ORIGIN in self.config and not self.marks and not self.is_guarded

    @property
    def root_pool(self) -> str:
        """The pool of the root disk, ``""`` if no device is a root disk."""
        return next((d.get("pool", "") for d in self.expanded_devices.values() if is_root_disk(d)), "")

    @property
    def addresses(self) -> Config:
        """MAC address by NIC device."""
        found = ((_NIC_ADDRESS.match(key), value) for key, value in self.config.items())
        volatile = {match["device"]: value for match, value in found if match}
        fixed = {n: d["hwaddr"] for n, d in self.expanded_devices.items() if d.get("type") == "nic" and "hwaddr" in d}
        return volatile | fixed

    @property
    def identity(self) -> Config:
        """The volatile keys that make a copy the same machine: MAC addresses, uuid, cloud-init's id, base image.

        All other volatile keys describe its last run on the old server; ``volatile.last_state.power`` would even make
        the new server start it at boot.
        """
        return {k: v for k, v in self.config.items() if k in _IDENTITY_KEYS or _NIC_ADDRESS.match(k)}

    @property
    def marks(self) -> Config:
        """What herder wrote on it, by the key without prefix."""
        return {k.removeprefix(MARK_PREFIX): v for k, v in self.config.items() if k.startswith(MARK_PREFIX) and v}

    @property
    def own_config(self) -> Config:
        """Its config as its owner sees it: without volatile keys and herder's marks."""
        return {k: v for k, v in self.config.items() if not k.startswith(("volatile.", MARK_PREFIX))}

    @property
    def own_profiles(self) -> tuple[str, ...]:
        """Its profiles without the one that herder's job has added."""
        return tuple(name for name in self.profiles if name != guard_profile(self.marks.get("job", "")))

    @property
    def own_devices(self) -> Devices:
        """Its local devices without herder's guard."""
        return {name: device for name, device in self.devices.items() if name != GUARD_DEVICE}


def guard_profile(job_id: str) -> str:
    """The name of the profile by which a job guards its source."""
    return f"herder-{job_id}"


def is_root_disk(device: Mapping[str, str]) -> bool:
    """Whether a device is an instance's root disk."""
    return device.get("type") == "disk" and device.get("path") == "/" and bool(device.get("pool"))
