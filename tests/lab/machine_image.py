"""The image of the lab's virtual machines: Debian's kernel and busybox, in one program that UEFI starts, 13 MB.

`machine` counts the seconds since it was started, in a variable of its shell, and says on its console each second
`tick COUNT of BOOT`, BOOT being the kernel's own id of this boot: who sees the same id with a higher count sees the
same memory. It shuts down when its power button is pressed, which is how LXD asks. Its disk is one FAT file system,
which tests read and write from outside with mtools, at the very beginning of the disk: there are no partitions.
"""

import gzip
import io
import tarfile
from pathlib import Path

from tests.lab import host, packages

ALIAS = "machine"
DISK_MIB = 64
MODULES = ("acpi/button.ko", "input/evdev.ko")
SECTIONS = {".osrel": 0x20000, ".cmdline": 0x30000, ".linux": 0x2000000, ".initrd": 0x4000000}
#: Without a check whether the timer ticks: an emulated one does not in time on a busy host, and Linux panics.
CMDLINE = "console=ttyS0 quiet panic=-1 no_timer_check"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devices /dev
for module in /lib/*.ko; do insmod $module; done
for button in /dev/input/event*; do
    (dd if=$button of=/dev/null bs=24 count=1 2>/dev/null; poweroff -f) &
done
read boot </proc/sys/kernel/random/boot_id
count=0
while :; do
    count=$((count + 1))
    echo "tick $count of $boot"
    sleep 1
done
"""
METADATA = """architecture: x86_64
creation_date: 1700000000
properties:
  os: busybox
  description: virtual machine of the herder lab
"""


def build(folder: Path) -> dict[str, Path]:
    """Alias -> tarball below `folder`; built only if it is not there yet."""
    tarball = folder / f"{ALIAS}.tar.gz"
    if not tarball.exists():
        work = folder / f"{ALIAS}.work"
        host.run("rm", "--recursive", "--force", str(work))
        work.mkdir(parents=True)
        _pack(_disk(work), half := tarball.with_suffix(".half"))
        half.rename(tarball)
        host.run("rm", "--recursive", str(work))
    return {ALIAS: tarball}


def _disk(work: Path) -> Path:
    """The disk, with the program where the firmware looks for one."""
    packages.unpack((packages.newest_kernel(), packages.STUB), work / "unpacked")
    program, disk, packed = _program(work), work / "disk.raw", work / "disk.qcow2"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB * 1024**2)
    host.run("mformat", "-i", str(disk), "-F", "::")
    for place in ("::/EFI", "::/EFI/BOOT"):
        host.run("mmd", "-i", str(disk), place)
    host.run("mcopy", "-i", str(disk), str(program), "::/EFI/BOOT/BOOTX64.EFI")
    host.run("qemu-img", "convert", "-O", "qcow2", "-c", str(disk), str(packed))
    return packed


def _program(work: Path) -> Path:
    """Kernel, its command line and its first file system, in the stub that UEFI can start."""
    (work / "cmdline").write_text(CMDLINE)
    (work / "initrd").write_bytes(gzip.compress(_first_files(work)))
    sources = {
        ".osrel": Path("/etc/os-release"),
        ".cmdline": work / "cmdline",
        ".linux": next((work / "unpacked" / "boot").glob("vmlinuz-*")),
        ".initrd": work / "initrd",
    }
    sections = [
        option
        for name, source in sources.items()
        for option in ("--add-section", f"{name}={source}", "--change-section-vma", f"{name}={SECTIONS[name]:#x}")
    ]
    stub, program = work / "unpacked/usr/lib/systemd/boot/efi/linuxx64.efi.stub", work / "program.efi"
    host.run("objcopy", *sections, str(stub), str(program))
    return program


def _first_files(work: Path) -> bytes:
    root = work / "root"
    for name in ("bin", "dev", "lib", "proc", "sys"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(packages.busybox().read_bytes())
    drivers = next((work / "unpacked/lib/modules").iterdir()) / "kernel/drivers"
    for module in MODULES:
        (root / "lib" / Path(module).name).write_bytes((drivers / module).read_bytes())
    (root / "init").write_text(INIT)
    for program in ("bin/busybox", "init"):
        (root / program).chmod(0o755)
    archive = work / "initrd.cpio"
    host.run("sh", "-c", f"find . | cpio --quiet --create --format=newc > {archive}", folder=root)
    return archive.read_bytes()


def _pack(disk: Path, tarball: Path) -> None:
    """One tarball: a `rootfs.img` in it is how LXD knows an image of a virtual machine."""
    with tarfile.open(tarball, "w:gz", compresslevel=1) as tar:
        about = tarfile.TarInfo("metadata.yaml")
        about.size = len(METADATA)
        tar.addfile(about, io.BytesIO(METADATA.encode()))
        tar.add(disk, "rootfs.img")
