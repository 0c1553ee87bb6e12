"""A CRIU with which servers of the lab move the memory of containers, where that of this machine's Debian cannot.

CRIU itself is that of Debian 13, unpacked with its libc and its libraries. Three things of LXD's keep it from working
between two servers of one machine, and are got out of its way by stand-ins, which do not touch what LXD does:

* `criu` is called with the profile of AppArmor, which not every kernel has, and LXD leaves its images in a folder that
  the guest's root cannot enter. It also lets a test hold a restore still.
* `lxd` sees its own directory also where the other server's is: images name the host's side of mounts by their paths,
  as if they were the same on all servers, as they are in `/var/lib/lxd`.
* a configuration without a console: LXD opens one for each container, and CRIU cannot take it along.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab import host, packages

TEMPLATES = Path("/usr/share/lxc/config")
CRIU = """#!/bin/bash
arguments=() verb=$1
while (($#)); do
    case $1 in
        --lsm-profile) shift 2; continue ;;
        -D) [[ $verb = restore ]] && chmod -R go+rX "$2" && [[ $2 = /tmp/* ]] && chmod go+x "${{2%/*}}" ;;
    esac
    arguments+=("$1")
    shift
done
if [[ $verb = restore ]]; then
    touch {folder}/restoring
    while [[ -e {folder}/wait ]]; do sleep 0.02; done
fi
exec {root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {root}/usr/lib/x86_64-linux-gnu \\
    {root}/usr/sbin/criu "${{arguments[@]}}"
"""
LXD = """#!/bin/bash
[[ $1 = --group ]] || exec /usr/bin/lxd "$@"
case $LXD_DIR in {one}) other={two} ;; {two}) other={one} ;; *) exec -a lxd /usr/bin/lxd "$@" ;; esac
export LXD_LXC_TEMPLATE_CONFIG={folder}/config
exec unshare --mount --propagation slave bash -c '
    mount --rbind "$LXD_DIR" "$LXD_DIR" && mount --make-rshared "$LXD_DIR" && mount --rbind "$LXD_DIR" "$0" &&
        exec -a lxd /usr/bin/lxd "$@"' "$other" "$@"
"""


@dataclass(frozen=True)
class Criu:
    """What lies in a folder: programs for the PATH of two daemons."""

    folder: Path

    @property
    def path(self) -> str:
        """The PATH of the daemons that shall use it."""
        return f"{self.folder}/bin:{host.PATH}"

    def hold_restores(self) -> None:
        """Let no restore begin."""
        (self.folder / "restoring").unlink(missing_ok=True)
        (self.folder / "wait").touch()

    def wait_held(self) -> None:
        """Return when a target would begin to restore: all of it has come."""
        host.wait_until("a restore", (self.folder / "restoring").exists, seconds=60)

    def release(self) -> None:
        """Let it begin."""
        (self.folder / "wait").unlink(missing_ok=True)


def make(folder: Path, *, one: Path, two: Path) -> Criu:
    """Put it into a folder, for the servers in these two directories. Raises LabUnavailableError."""
    packages.unpack_other(packages.CRIU, folder / "root", suite=packages.NEXT_RELEASE)
    shutil.copytree(TEMPLATES, folder / "config", dirs_exist_ok=True)
    (folder / "config/common.conf.d/90-no-console.conf").write_text("lxc.console.path = none\n")
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in (
        ("criu", CRIU.format(folder=folder, root=folder / "root")),
        ("lxd", LXD.format(folder=folder, one=one, two=two)),
    ):
        program = folder / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    return Criu(folder)
