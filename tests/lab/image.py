"""The images of the lab: busybox with a shell script as init, 1 MB, the same bytes at every build.

Two variants. `tiny` obeys the stop signal of LXD (SIGPWR) at once: its init ends, and the kernel ends the rest.
`stubborn` ignores it, as a guest does that hangs in its shutdown; only force stops it. Both run `/root/writer` in the
background if there is one, which is how a test makes a guest that writes while it is moved.
"""

import gzip
import io
import os
import tarfile
from pathlib import Path

from tests.lab import host, packages

STOP_SIGNALS = {"tiny": "trap 'exit 0' PWR TERM INT", "stubborn": "trap '' PWR TERM INT"}
ALIASES = tuple(STOP_SIGNALS)
BUILT_AT = 1700000000  # any fixed moment: two builds must not differ

# ash takes signals at once while it waits for a child, and reaps orphans whenever it waits.
INIT = """#!/bin/sh
{stop_signals}
[ -f /root/writer ] && sh /root/writer &
while :; do
    sleep 3600 &
    wait $!
done
"""
METADATA = """architecture: {machine}
creation_date: {built_at}
properties:
  os: busybox
  description: {alias} busybox of the herder lab
"""
FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin", "var")


def build(folder: Path) -> dict[str, Path]:
    """Alias -> tarball below `folder`; builds only what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    tarballs = {alias: folder / f"{alias}.tar.gz" for alias in ALIASES}
    for alias, tarball in tarballs.items():
        if not tarball.exists():
            half = tarball.with_suffix(".half")
            half.write_bytes(gzip.compress(_tar(alias), compresslevel=1, mtime=BUILT_AT))
            half.rename(tarball)
    return tarballs


def _tar(alias: str) -> bytes:
    program = packages.busybox()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        metadata = METADATA.format(machine=os.uname().machine, built_at=BUILT_AT, alias=alias)
        _add_file(tar, "metadata.yaml", metadata.encode(), mode=0o644)
        for name in ("", *FOLDERS):
            _add(tar, f"rootfs/{name}".rstrip("/"), tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        _add_file(tar, "rootfs/bin/busybox", program.read_bytes(), mode=0o755)
        for applet in sorted(set(host.run(str(program), "--list").split()) - {"busybox", "init"}):
            _add(tar, f"rootfs/bin/{applet}", tarfile.SYMTYPE, link="busybox")
        _add_file(tar, "rootfs/sbin/init", INIT.format(stop_signals=STOP_SIGNALS[alias]).encode(), mode=0o755)
        _add_file(tar, "rootfs/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
        _add_file(tar, "rootfs/etc/group", b"root:x:0:\n", mode=0o644)
    return buffer.getvalue()


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    _add(tar, name, tarfile.REGTYPE, mode=mode, content=content)


def _add(
    tar: tarfile.TarFile, name: str, kind: bytes, *, mode: int = 0o777, link: str = "", content: bytes = b""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size, entry.mtime = kind, mode, link, len(content), BUILT_AT
    tar.addfile(entry, io.BytesIO(content))
