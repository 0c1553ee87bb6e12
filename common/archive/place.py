"""What an archive can do, and which kind an address means."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from common.archive.directory import Directory
from common.archive.stream import Incoming
from common.domain.archive import Manifest
from common.domain.errors import InputError


class Archive(Protocol):
    """Exports at one place. All may raise ArchiveRefused and ArchiveUnreachable; what writes, also OutOfSpace."""

    where: str

    def check_writable(self) -> None: ...
    def manifests(self, prefix: str = "") -> tuple[Manifest, ...]: ...
    def sizes(self) -> Mapping[str, int]: ...
    def manifest(self, file: str) -> Manifest | None: ...
    def size(self, file: str) -> int | None: ...
    def write(self, file: str, incoming: Incoming) -> None: ...
    def write_manifest(self, manifest: Manifest) -> None: ...
    def read(self, file: str) -> Iterator[bytes]: ...
    def withdraw(self, file: str) -> None: ...
    def discard(self, file: str) -> None: ...
    def abandoned(self, prefix: str, before: datetime) -> tuple[str, ...]: ...


def is_archive(place: str) -> bool:
    """Whether this names an archive and no remote: a path or an address with a slash."""
    return "/" in place


def address(text: str) -> str:
    """An archive's address as jobs keep it: ``s3://BUCKET/PREFIX``, or the path of a directory from the root.

    Raises InputError.
    """
    if "://" in text:
        place = urlsplit(text)
        if place.scheme != "s3" or not place.netloc or place.query or place.fragment:
            raise InputError(f"{text!r} is no archive", hint="write a directory, or s3://BUCKET/PREFIX")
        return f"s3://{place.netloc}/{place.path.strip('/')}".rstrip("/")
    if not text:
        raise InputError("no archive given", hint="write a directory, or s3://BUCKET/PREFIX")
    return str(Path(text).expanduser().resolve())


@cache
def open_archive(where: str) -> Archive:
    """The archive of this address. Nothing is asked yet; threads share it, for a client of S3 takes long to make."""
    if where.startswith("s3://"):
        from common.archive.bucket import Bucket  # noqa: PLC0415 - boto3 would take a quarter of the start of every command

        place = urlsplit(where)
        return Bucket(place.netloc, place.path)
    return Directory(Path(where))
