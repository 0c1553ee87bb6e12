"""What an archive holds: for each export a backup file and, beside it, a manifest that says what the file is.

A backup file without its manifest is no export. Read and written by ``common.archive``.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from common.domain.errors import InputError
from common.domain.generation import BackupOrder, Generation, origin, stamp
from common.domain.instance import Config, Devices, Instance
from common.domain.plan import Compression

#: The version of the manifest that we write, and the newest that we can read.
MANIFEST_VERSION = 1
MANIFEST = ".json"
_ENDINGS = {
    Compression.NONE: ".tar",
    Compression.GZIP: ".tar.gz",
    Compression.ZSTD: ".tar.zst",
    Compression.XZ: ".tar.xz",
    Compression.BZIP2: ".tar.bz2",
    Compression.LZMA: ".tar.lzma",
}
_ENDING = re.compile(r"\.tar(\.[a-z0-9]+)?$")


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a server wrote a backup file. One that is ``optimized`` can only go into a pool with the same ``driver``."""

    optimized: bool = False
    driver: str = ""
    compression: Compression = Compression.NONE
    instance_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One export. ``size`` in bytes; ``fingerprint`` is that of the certificate of the server that it came from.

    ``config`` is the instance's own without what describes its last run, but with what makes it the machine that it is.
    Of a generation ``policy`` and ``at`` name the run that has made it. If its policy has a hook, its file is that of a
    clone of the snapshot ``of_snapshot``, which cannot be started: what the instance is, only this tells.
    """

    file: str
    instance: str
    source: str
    size: int
    sha256: str
    format: Format
    created_at: datetime
    version: int = MANIFEST_VERSION
    project: str = "default"
    fingerprint: str = ""
    job: str = ""
    type: str = "container"
    architecture: str = ""
    description: str = ""
    profiles: tuple[str, ...] = ()
    config: Config = field(default_factory=dict)
    devices: Devices = field(default_factory=dict)
    pool: str = ""
    snapshots: tuple[str, ...] = ()
    policy: str = ""
    at: datetime | None = None
    of_snapshot: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from: ``REMOTE:PROJECT/INSTANCE``."""
        return origin(self.source, self.project, self.instance)

    def as_instance(self) -> Instance:
        """The instance as far as it is known from here, stopped."""
        root = {"root": {"type": "disk", "path": "/", "pool": self.pool}}
        return Instance(
            name=self.instance,
            project=self.project,
            type=self.type,
            architecture=self.architecture,
            description=self.description,
            profiles=self.profiles,
            config=self.config,
            devices=self.devices,
            expanded_config=self.config,
            expanded_devices={**root, **self.devices},
        )


def file_name(instance: Instance, moment: datetime, compression: Compression) -> str:
    """``INSTANCE-TIME.tar``, in another project than the default one ``PROJECT-INSTANCE-TIME.tar``; the time in UTC."""
    project = "" if instance.project == "default" else f"{instance.project}-"
    return f"{project}{instance.name}-{moment:%Y%m%dT%H%M%SZ}{_ENDINGS[compression]}"


def generation_file(order: BackupOrder, source: str, compression: Compression) -> str:
    """The file of the generation that a run makes of ``REMOTE:PROJECT/INSTANCE``: ``POLICY-INSTANCE-XXXX-TIME.tar``."""
    return f"{generations_prefix(order, source)}{stamp(order.at)}{_ENDINGS[compression]}"


def generations_prefix(order: BackupOrder, source: str) -> str:
    """How the files of all generations that a policy makes of ``REMOTE:PROJECT/INSTANCE`` begin."""
    return f"{order.policy}-{order.generation_of(source).removesuffix(stamp(order.at))}"


def generation_in(archive: str, manifest: Manifest) -> Generation | None:
    """The generation that this export is, if a run has made it."""
    if not manifest.policy or manifest.at is None:
        return None
    return Generation(
        policy=manifest.policy,
        source=manifest.origin,
        at=manifest.at,
        archive=archive,
        project=manifest.project,
        name=manifest.file,
    )


def is_backup_file(name: str) -> bool:
    """Whether a name in an archive is that of a backup file."""
    return _ENDING.search(name) is not None


def manifest_name(file: str) -> str:
    """The name of the manifest beside a backup file."""
    return _ENDING.sub("", file) + MANIFEST


def chosen(
    manifests: Iterable[Manifest], names: Sequence[str], *, project: str, all_projects: bool, archive: str
) -> tuple[Manifest, ...]:
    """The exports that are meant: of each instance the newest, or the one whose file is named, with or without ending.

    Without names it is every instance of the project. Raises InputError for a name that fits nothing.
    """
    seen = sorted(manifests, key=lambda each: (each.created_at, each.file))
    here = [each for each in seen if all_projects or each.project == project]
    newest = {(each.project, each.instance): each for each in here}
    if not names:
        return tuple(sorted(newest.values(), key=lambda each: (each.project, each.instance)))
    found = [_named(name, here, seen) for name in dict.fromkeys(names)]
    missing = [name for name, each in zip(dict.fromkeys(names), found, strict=True) if each is None]
    if missing:
        where = "any project" if all_projects else f"project {project}"
        raise InputError(
            f"{archive} has no export of {', '.join(missing)} ({where})",
            hint="`herder import ARCHIVE` alone lists what is there",
        )
    return tuple({each.file: each for each in found if each is not None}.values())


def _named(name: str, here: Sequence[Manifest], seen: Sequence[Manifest]) -> Manifest | None:
    """By instance within the project, the newest; by file whatever the project."""
    by_file = [each for each in seen if name in (each.file, _ENDING.sub("", each.file))]
    by_instance = [each for each in here if each.instance == name]
    return next(reversed(by_instance), None) or next(iter(by_file), None)


def room_needed(used: int, snapshots: int, *, optimized: bool) -> int:
    """Bytes that a backup takes on its server at most: one that is portable has every snapshot in full."""
    return used * (1 if optimized else 1 + snapshots)
