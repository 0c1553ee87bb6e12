"""Stand-ins for what LXD and Incus want of a kernel before they run virtual machines, where the kernel cannot give it.

The daemons, QEMU, the firmware, the disk and the transfer are the real ones. What stands in:

* `modprobe` says that vhost_vsock is loaded. The guest then has no vsock, hence no agent in it.
* `qemu-system-x86_64` emulates the processor: KVM cannot boot an ordinary kernel everywhere. It stays root, because
  without udev nobody else may open /dev/net/tun. That of Incus is a newer one.
* `lxd-helper` and `incus-helper`, which the daemon runs instead of itself for small tasks, do not lift the limit of
  locked memory: that needs a capability which root in a container lacks, and only hardware that is passed through needs
  it.
* `incusd` becomes the real one in a process in which vhost-vsock seems to work; see `no_vsock`. It also makes
  /dev/vhost-vsock, a link to /dev/null, if this machine has none. LXD does not ask for it.

The daemons find the helpers by LXD_EXEC_PATH and INCUS_EXEC_PATH, the others by their PATH; see `product`.
"""

import sys
from pathlib import Path

from tests.lab import no_vsock
from tests.lab.errors import LabUnavailableError

#: The daemons open both before they start a virtual machine.
DEVICES = (Path("/dev/kvm"), Path("/dev/vsock"))

MODPROBE = """#!/bin/sh
case "$*" in *vhost_vsock*) exit 0 ;; esac
exec /sbin/modprobe "$@"
"""
QEMU = """#!/bin/bash
arguments=() program=/usr/bin/qemu-system-x86_64
if [[ $INCUS_DIR ]]; then
    program={qemu}/bin/qemu-system-x86_64
    export QEMU_MODULE_DIR={qemu}/lib/x86_64-linux-gnu/qemu
    set -- "$@" -L {qemu}/share/qemu -L /usr/share/qemu -L /usr/share/seabios
fi
while (($#)); do
    case $1 in
        -readconfig)
            sed -i -e '/^\\[device "qemu_vsock"\\]/,/^\\[/{{/^\\[device "qemu_vsock"\\]/d; /^\\[/!d}}' \\
                -e 's/accel = "kvm"/accel = "tcg"/' "$2" ;;
        -cpu) set -- "$1" max "${{@:3}}" ;;
        -accel) set -- "$1" "${{2/kvm/tcg}}" "${{@:3}}" ;;
        -runas | -run-with) shift 2; continue ;;
    esac
    arguments+=("$1")
    shift
done
exec "$program" "${{arguments[@]}}"
"""
HELPER = """#!/bin/bash
arguments=()
for argument; do
    [[ $argument = limit=memlock:* ]] || arguments+=("$argument")
done
exec -a {program} {program} "${{arguments[@]}}"
"""
INCUSD = """#!/bin/sh
[ -e /dev/vhost-vsock ] || ln -s null /dev/vhost-vsock
exec {python} {no_vsock} {program} incusd "$@"
"""


def make(folder: Path, *, programs: Path, qemu: Path) -> None:
    """Write them into a folder; ``programs`` and ``qemu`` are where Incus and its QEMU are or will be.

    Raises LabUnavailableError if this machine lacks what nothing stands in for.
    """
    absent = [str(device) for device in DEVICES if not device.exists()]
    if absent:
        raise LabUnavailableError(f"The lab's virtual machines need {' and '.join(absent)}.")
    folder.mkdir(exist_ok=True)
    incusd = programs / "usr/libexec/incus/incusd"
    texts = {
        "modprobe": MODPROBE,
        "qemu-system-x86_64": QEMU.format(qemu=qemu / "usr"),
        "lxd-helper": HELPER.format(program="/usr/bin/lxd"),
        "incus-helper": HELPER.format(program=incusd),
        "incusd": INCUSD.format(python=sys.executable, no_vsock=no_vsock.__file__, program=incusd),
    }
    for name, text in texts.items():
        place = folder / name
        place.write_text(text)
        place.chmod(0o755)
