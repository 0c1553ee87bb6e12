"""How a custom volume gets from one server to another: directly, or as a backup that a worker carries. Pure."""

import re

from common.domain.fleet import ServerInfo

#: What both servers must have for a custom volume to go as a backup.
VOLUME_BACKUP_EXTENSIONS = frozenset({"custom_volume_backup"})
#: What mended it in Incus: 6.0.5 in the branch that is kept for long, 6.13 in the other one. A crash has no API
#: extension, so this is the one place where a server is judged by its version.
_MENDED_IN_BRANCH, _MENDED = (6, 0, 5), (6, 13)
_BRANCH = (6, 0)
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


def why_as_backup(source: ServerInfo, target: ServerInfo) -> str:
    """Why the source must not send a custom volume to the target, or nothing.

    LXD 5.0 does not tell how large the volume is, and such a version of Incus reads it all the same: its daemon
    crashes, each time.
    """
    if (source.product, target.product) != ("lxd", "incus") or _is_mended(target.version):
        return ""
    return f"Incus {target.version} crashes when LXD sends it a custom volume"


def _is_mended(version: str) -> bool:
    """One that cannot be read is not believed to be."""
    found = _NUMBERS.match(version)
    numbers = tuple(int(each) for each in found[0].split(".")) if found else (0,)
    return numbers >= (_MENDED_IN_BRANCH if numbers[:2] == _BRANCH else _MENDED)
