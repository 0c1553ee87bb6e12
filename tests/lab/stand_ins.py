"""Stand-ins for what LXD wants of a kernel before it runs virtual machines, where the kernel cannot give it.

LXD, QEMU, the firmware, the disk and the transfer are the real ones. What stands in:

* `modprobe` says that vhost_vsock is loaded. The guest then has no vsock, hence LXD no agent in it.
* `qemu-system-x86_64` emulates the processor: KVM cannot boot an ordinary kernel everywhere. It stays root, because
  without udev nobody else may open /dev/net/tun.
* `lxd-helper`, which the daemon runs instead of itself for small tasks, does not lift the limit of locked memory: that
  needs a capability which root in a container lacks, and only hardware that is passed through needs it.

The daemon finds the first two by its PATH, the third by LXD_EXEC_PATH; see `product`.
"""

from pathlib import Path

from tests.lab.errors import LabUnavailableError

#: LXD opens both before it starts a virtual machine.
DEVICES = (Path("/dev/kvm"), Path("/dev/vsock"))

MODPROBE = """#!/bin/sh
case "$*" in *vhost_vsock*) exit 0 ;; esac
exec /sbin/modprobe "$@"
"""
QEMU = """#!/bin/bash
arguments=()
while (($#)); do
    case $1 in
        -readconfig)
            sed -i -e '/^\\[device "qemu_vsock"\\]/,/^\\[/{/^\\[device "qemu_vsock"\\]/d; /^\\[/!d}' \\
                -e 's/accel = "kvm"/accel = "tcg"/' "$2" ;;
        -cpu) set -- "$1" max "${@:3}" ;;
        -accel) set -- "$1" "${2/kvm/tcg}" "${@:3}" ;;
        -runas) shift 2; continue ;;
    esac
    arguments+=("$1")
    shift
done
exec /usr/bin/qemu-system-x86_64 "${arguments[@]}"
"""
LXD = """#!/bin/bash
arguments=()
for argument; do
    [[ $argument = limit=memlock:* ]] || arguments+=("$argument")
done
exec -a /usr/bin/lxd /usr/bin/lxd "${arguments[@]}"
"""


def make(folder: Path) -> None:
    """Write them into a folder. Raises LabUnavailableError if this machine lacks what nothing stands in for."""
    absent = [str(device) for device in DEVICES if not device.exists()]
    if absent:
        raise LabUnavailableError(f"The lab's virtual machines need {' and '.join(absent)}.")
    folder.mkdir(exist_ok=True)
    for name, text in {"modprobe": MODPROBE, "qemu-system-x86_64": QEMU, "lxd-helper": LXD}.items():
        place = folder / name
        place.write_text(text)
        place.chmod(0o755)
