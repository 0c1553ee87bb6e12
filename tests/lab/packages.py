"""The programs of the lab, installed by apt when they are missing; Incus and its QEMU are only unpacked, into the lab.

Debian starts the daemons of a package when it installs it. The lab wants only the programs, so apt's `policy-rc.d`
says no to every service start for the duration; a packaged LXD that runs already is not touched.
With systemd a freshly installed LXD does start at the next boot, unless somebody disables it.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.lab import host
from tests.lab.errors import LabError, LabUnavailableError

# What we look for -> the Debian package that has it. LXD itself calls rsync, setfattr, unsquashfs, iptables and
# dnsmasq.
PROGRAMS = {
    "lxd": "lxd",
    "lxc": "lxd-client",
    "mkfs.btrfs": "btrfs-progs",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "rsync": "rsync",
    "setfattr": "attr",
    "unsquashfs": "squashfs-tools",
    "newuidmap": "uidmap",
    "setsid": "util-linux",
    "losetup": "mount",
    "iptables": "iptables",
    "dnsmasq": "dnsmasq-base",
}
# What an LXD server of the lab needs besides, to run virtual machines, and the lab to make an image of one. LXD moves
# the second table of partitions with sgdisk when it makes a disk larger. A path is that of a file.
MACHINE_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "sgdisk": "gdisk",
    "/usr/share/OVMF/OVMF_CODE.fd": "ovmf",
    "mformat": "mtools",
    "objcopy": "binutils",
    "cpio": "cpio",
}
# The guest's kernel, through the package that always depends on the newest one, and what makes it a program of UEFI.
KERNEL = "linux-image-cloud-amd64"
STUB = "systemd-boot-efi"
# Incus is in the backports of Debian 12. What else its packages depend on, LXD's have brought already.
INCUS = ("incus-base", "incus-client", "incus-extra", "libcowsql0", "libraft0")
# To save and to send a memory it needs a newer QEMU than that of Debian 12; what that depends on, the older one has
# brought.
QEMU_OF_INCUS = (
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "qemu-system-modules-spice",
    "qemu-system-modules-opengl",
)
# The CRIU of Debian 12 cannot dump a process on Linux 6.18. That of Debian 13 can, with its own libc and libraries.
CRIU = (
    *(
        "criu",
        "libc6",
        "libgcc-s1",
        "libbsd0",
        "libmd0",
        "libnet1",
        "libnl-3-200",
        "libprotobuf-c1",
        "libuuid1",
        "zlib1g",
    ),
    *("libgnutls30t64", "libp11-kit0", "libidn2-0", "libunistring5", "libtasn1-6", "libhogweed6t64", "libnettle8t64"),
    *("libgmp10", "libffi8", "libnftables1", "libnftnl11", "libmnl0", "libxtables12", "libjansson4", "libzstd1"),
)
RELEASE, BACKPORTS, NEXT_RELEASE = "bookworm", "bookworm-backports", "trixie"
POLICY = Path("/usr/sbin/policy-rc.d")
ID_FILES = (Path("/etc/subuid"), Path("/etc/subgid"))
INSTALLING = Path("/var/tmp/herder-lab-packages.lock")
ID_RANGE = "root:1000000:1000000000"


def ensure(programs: Mapping[str, str] = PROGRAMS) -> None:
    """Make this machine able to run LXD servers of ours.

    Raises LabUnavailableError if that is impossible here, LabError if apt fails.
    """
    if sys.platform != "linux":
        raise LabUnavailableError(f"The lab needs Linux, this is {sys.platform}.")
    if os.geteuid() != 0:
        raise LabUnavailableError("The lab needs root: LXD mounts file systems and maps user ids.")
    with host.locked(INSTALLING):
        if absent := missing(programs):
            install(absent, programs)
        give_root_ids()


def missing(programs: Mapping[str, str] = PROGRAMS) -> list[str]:
    """Names of the packages that must be installed."""
    absent = [package for program, package in programs.items() if not _is_there(program)]
    if "busybox" in programs and "busybox-static" not in absent and not is_static(busybox()):
        absent.append("busybox-static")
    return absent


def _is_there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else bool(shutil.which(program, path=host.PATH))


def busybox() -> Path:
    """Where busybox is installed."""
    return Path(shutil.which("busybox", path=host.PATH) or "/bin/busybox")


def is_static(program: Path) -> bool:
    """Whether a program runs without shared libraries, hence in a root file system that has none.

    A dynamic ELF program names its interpreter, ld-linux or ld-musl, near its beginning.
    """
    return b"/ld-" not in program.read_bytes()[:4096]


def install(names: list[str], programs: Mapping[str, str] = PROGRAMS) -> None:
    """Install packages without starting their services."""
    if not shutil.which("apt-get", path=host.PATH):
        raise LabUnavailableError(f"The lab needs {', '.join(names)}, and there is no apt-get to install them.")
    with no_service_starts():
        try:
            _apt("install", *names)
        except LabError:  # most often no package lists, or lists that are too old
            _apt("update")
            _apt("install", *names)
    if absent := missing(programs):
        raise LabUnavailableError(f"The lab needs {', '.join(absent)}, and apt-get did not bring them.")


def _apt(verb: str, *names: str) -> None:
    options = () if verb == "update" else ("--yes", "--no-install-recommends")
    host.run(
        "apt-get",
        "-qq",
        "-o",
        "DPkg::Lock::Timeout=300",
        verb,
        *options,
        *names,
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )


def unpack_other(names: tuple[str, ...], folder: Path, *, suite: str = BACKPORTS) -> None:
    """Put the files of packages of another suite of Debian into a folder, unless they are there.

    Nothing is installed, and the machine's own lists of packages stay as they are; apt checks what it downloads.
    Raises LabUnavailableError if this is not Debian 12, or its mirror has not got them.
    """
    if folder.exists():
        return
    half = folder.with_name(f"{folder.name}.half")
    host.run("rm", "--recursive", "--force", str(half))
    for needed in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (half / needed).mkdir(parents=True)
    (half / "list").write_text(f"deb {_mirror()} {suite} main\n")
    places = {
        "Dir::Etc::sourcelist": half / "list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": half / "lists",
        "Dir::Cache": half / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [f"-o{key}={place}" for key, place in places.items()]
    try:
        host.run("apt-get", "-qq", *options, "update")
        host.run("apt-get", "-qq", *options, "download", *names, folder=half / "debs")
    except LabError as error:
        raise LabUnavailableError(f"The lab needs {names[0]} of Debian's {suite}: {error}") from error
    for package in sorted((half / "debs").iterdir()):
        host.run("dpkg", "-x", str(package), str(half / "root"))
    (half / "root").rename(folder)
    host.run("rm", "--recursive", str(half))


def unpack(names: tuple[str, ...], folder: Path) -> None:
    """Put the files of packages of this machine's Debian below a folder; nothing is installed."""
    debs = folder.with_name(f"{folder.name}.debs")
    for place in (debs, folder):
        place.mkdir(parents=True, exist_ok=True)
    try:
        _download(names, debs)
    except LabError:  # no package lists, or lists that are too old
        _apt("update")
        _download(names, debs)
    for package in sorted(debs.glob("*.deb")):
        host.run("dpkg", "-x", str(package), str(folder))
    host.run("rm", "--recursive", str(debs))


def _download(names: tuple[str, ...], folder: Path) -> None:
    host.run("apt-get", "-qq", "-oAPT::Sandbox::User=root", "download", *names, folder=folder)


def newest_kernel() -> str:
    """The package of the kernel that the newest one of its kind is today. Raises LabUnavailableError."""
    told = host.run("apt-cache", "depends", KERNEL, check=False)
    found = [line.split()[1] for line in told.splitlines() if line.strip().startswith("Depends: linux-image-")]
    if not found:
        raise LabUnavailableError(f"apt on this machine knows no {KERNEL}, which the lab's virtual machines boot")
    return found[0]


def _mirror() -> str:
    """Where this machine gets its Debian 12 from."""
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != RELEASE:
        raise LabUnavailableError(f"The lab takes packages of other suites of Debian on {RELEASE} only.")
    told = host.run(
        "apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"
    )
    found = [line.split()[2] for line in told.splitlines() if line.split()[:2] == [RELEASE, "main"]]
    if not found:
        raise LabUnavailableError(f"apt on this machine knows no mirror of Debian {RELEASE}.")
    return found[0]


@contextmanager
def no_service_starts() -> Iterator[None]:
    """While this holds, installing a package starts none of its services."""
    kept = POLICY.with_name("policy-rc.d.kept-by-herder-lab")
    if POLICY.exists() and not kept.exists():
        POLICY.rename(kept)
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(POLICY)


def give_root_ids() -> None:
    """LXD maps its containers' users to ranges that belong to root; without any it refuses to start them."""
    for file in ID_FILES:
        lines = file.read_text().splitlines() if file.exists() else []
        if not any(line.startswith("root:") for line in lines):
            file.write_text("\n".join([*lines, ID_RANGE]) + "\n")
