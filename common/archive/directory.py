"""An archive in a directory that workers see, on a disk or a network file system."""

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from common.archive import manifests
from common.archive.stream import PIECE, Incoming
from common.domain.archive import MANIFEST, Manifest, is_backup_file, manifest_name
from common.domain.errors import ArchiveRefused, ArchiveUnreachable, HerderError, OutOfSpace

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Directory:
    """Implements ``place.Archive``. What is being written has a name of its own that begins with a dot."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    def check_writable(self) -> None:
        """Raises ArchiveRefused."""
        probe = self._path / f".herder-{secrets.token_hex(4)}"
        with self._errors():
            if not self._path.is_dir():
                raise ArchiveRefused(
                    f"{self.where} is not a directory on {socket.gethostname()}",
                    hint="make it, or mount it, on every host with workers; an archive in S3 needs no mount",
                )
            with probe.open("xb"):
                probe.unlink()

    def manifests(self, prefix: str = "") -> tuple[Manifest, ...]:
        """Every export whose file begins so."""
        with self._errors():
            names = sorted(each.name for each in self._path.iterdir() if each.name.endswith(MANIFEST))
            found = (self._read_manifest(n) for n in names if n.startswith(prefix) and not n.startswith("."))
            return tuple(each for each in found if each is not None)

    def _read_manifest(self, name: str) -> Manifest | None:
        """None if it is not there, or was removed meanwhile."""
        path = self._path / name
        try:
            return manifests.read(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        """Bytes of every backup file that is whole."""
        with self._errors(), os.scandir(self._path) as entries:
            return {e.name: e.stat().st_size for e in entries if is_backup_file(e.name) and not e.name.startswith(".")}

    def manifest(self, file: str) -> Manifest | None:
        """The manifest of this backup file, or None."""
        with self._errors():
            return self._read_manifest(manifest_name(file))

    def size(self, file: str) -> int | None:
        """Bytes of this backup file, None if there is none."""
        path = self._path / file
        with self._errors():
            return path.stat().st_size if path.exists() else None

    def write(self, file: str, incoming: Incoming) -> None:
        """All of it or nothing; what is there is never overwritten."""
        self._clear(file)
        with self._new(file) as unfinished, unfinished.open("xb") as output:
            os.fchmod(output.fileno(), 0o600)
            shutil.copyfileobj(incoming, output, PIECE)
            output.flush()
            os.fsync(output.fileno())

    def write_manifest(self, manifest: Manifest) -> None:
        """The same for a manifest."""
        self._clear(manifest_name(manifest.file))
        with self._new(manifest_name(manifest.file)) as unfinished, unfinished.open("xb") as output:
            os.fchmod(output.fileno(), 0o600)
            output.write(manifests.written(manifest))
            output.flush()
            os.fsync(output.fileno())

    def read(self, file: str) -> Iterator[bytes]:
        """The pieces of a backup file."""
        with self._errors(), (self._path / file).open("rb") as opened:
            while piece := opened.read(PIECE):
                yield piece

    def withdraw(self, file: str) -> None:
        """Remove the manifest of a backup file, which is no export from then on."""
        self._clear(manifest_name(file))
        with self._errors():
            (self._path / manifest_name(file)).unlink(missing_ok=True)

    def discard(self, file: str) -> None:
        """Remove a backup file, whole or not."""
        self._clear(file)
        with self._errors():
            (self._path / file).unlink(missing_ok=True)

    def abandoned(self, prefix: str, before: datetime) -> tuple[str, ...]:
        """Backup files that begin so and have no manifest, whole or not, that nobody has written to since."""
        found: dict[str, float] = {}
        with self._errors():
            for each in self._path.iterdir():
                hidden = _UNFINISHED.fullmatch(each.name)
                name = hidden["name"] if hidden else each.name
                if name.startswith(prefix) and is_backup_file(name):
                    with suppress(FileNotFoundError):
                        found[name] = max(found.get(name, 0.0), each.stat().st_mtime)
            return tuple(
                name
                for name, written in sorted(found.items())
                if written < before.timestamp() and not (self._path / manifest_name(name)).exists()
            )

    def _clear(self, file: str) -> None:
        with self._errors():
            for unfinished in self._path.glob(f".{file}.*.part"):
                unfinished.unlink(missing_ok=True)

    @contextmanager
    def _new(self, name: str) -> Iterator[Path]:
        """A path to write to, which gets its name when the block is done, and is gone if that fails."""
        unfinished = self._path / f".{name}.{secrets.token_hex(4)}.part"
        with self._errors():
            try:
                yield unfinished
                self._publish(unfinished, self._path / name)
            finally:
                unfinished.unlink(missing_ok=True)

    def _publish(self, unfinished: Path, final: Path) -> None:
        try:
            os.link(unfinished, final)  # unlike a rename, it never replaces what is there
        except FileExistsError:
            raise _is_there(final) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if final.exists():
                raise _is_there(final) from None
            unfinished.rename(final)
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except HerderError:
            raise
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> HerderError:
        what = f"{error.filename or self.where} on {socket.gethostname()}: {error.strerror}"
        if error.errno in _FULL:
            return OutOfSpace(what, hint=f"free or add space in {self.where}, then `herder retry`")
        if error.errno in _REFUSED:
            return ArchiveRefused(
                what, hint=f"the user of the workers must be able to use {self.where}; then `herder retry`"
            )
        return ArchiveUnreachable(what)


def _is_there(final: Path) -> ArchiveRefused:
    return ArchiveRefused(f"{final} is there already, and an export is never overwritten", hint="export once more")
