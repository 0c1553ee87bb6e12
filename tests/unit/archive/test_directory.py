"""An archive in a directory: all or nothing, and never over what is there."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.archive.directory import Directory
from common.archive.stream import Incoming
from common.domain.archive import manifest_name
from common.domain.errors import ArchiveRefused, OutOfSpace, TransferFailed
from tests.builders import a_manifest

FILE = "web1-20250601T010000Z.tar"


def incoming(*pieces: bytes, size: int | None = None) -> Incoming:
    whole = sum(map(len, pieces)) if size is None else size
    return Incoming(iter(pieces), whole, on_piece=lambda _: None, on_whole=lambda *_: None)


@pytest.fixture
def archive(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_what_is_written_can_be_read(archive: Directory, tmp_path: Path) -> None:
    """By its owner alone, for it may hold secrets; manifests too."""
    archive.check_writable()
    archive.write(FILE, incoming(b"abc", b"def"))
    archive.write_manifest(a_manifest())
    assert b"".join(archive.read(FILE)) == b"abcdef"
    assert archive.size(FILE) == 6
    assert archive.manifest(FILE) == a_manifest()
    assert archive.manifests() == (a_manifest(),)
    assert {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {
        FILE: 0o600,
        "web1-20250601T010000Z.json": 0o600,
    }


def test_of_a_broken_stream_nothing_stays(archive: Directory, tmp_path: Path) -> None:
    """Neither a name nor a piece."""
    with pytest.raises(TransferFailed):
        archive.write(FILE, incoming(b"abc", size=9))
    assert list(tmp_path.iterdir()) == []
    assert (archive.size(FILE), archive.manifest(FILE), archive.manifests()) == (None, None, ())


def test_the_file_has_no_name_before_it_is_whole(archive: Directory, tmp_path: Path) -> None:
    """And what a worker that died has left goes with the next try."""
    (tmp_path / f".{FILE}.0bad.part").write_bytes(b"old")
    seen: list[list[str]] = []

    def pieces() -> Iterator[bytes]:
        yield b"abc"
        seen.append([each.name for each in tmp_path.iterdir()])
        yield b"def"

    archive.write(FILE, Incoming(pieces(), 6, on_piece=lambda _: None, on_whole=lambda *_: None))
    ((unfinished,),) = seen
    assert unfinished.startswith(f".{FILE}.")
    assert unfinished != f".{FILE}.0bad.part"
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def test_what_is_there_is_never_overwritten(archive: Directory) -> None:
    """Neither a backup nor a manifest."""
    archive.write(FILE, incoming(b"abc"))
    archive.write_manifest(a_manifest())
    with pytest.raises(ArchiveRefused, match="never overwritten"):
        archive.write(FILE, incoming(b"other"))
    with pytest.raises(ArchiveRefused, match="never overwritten"):
        archive.write_manifest(replace(a_manifest(), job="p2-1"))
    assert b"".join(archive.read(FILE)) == b"abc"
    assert archive.manifest(FILE) == a_manifest()


def test_a_file_system_without_links_will_do(
    archive: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename gives the name then, if nobody has it."""

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    archive.write(FILE, incoming(b"abc"))
    with pytest.raises(ArchiveRefused, match="never overwritten"):
        archive.write(FILE, incoming(b"other"))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"abc"]


def test_a_directory_that_is_not_there_is_named_with_its_host(tmp_path: Path) -> None:
    """Workers may run elsewhere than the command."""
    with pytest.raises(ArchiveRefused, match=f"{tmp_path}/none is not a directory on {os.uname().nodename}"):
        Directory(tmp_path / "none").check_writable()


@pytest.mark.parametrize(("number", "kind"), [(28, OutOfSpace), (30, ArchiveRefused), (13, ArchiveRefused)])
def test_a_refusal_of_the_file_system_says_who_acts(
    archive: Directory, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    """A full disk, one that is read only, one that is not ours."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(kind, match=os.strerror(number)):
        archive.write(FILE, incoming(b"abc"))
    assert archive.size(FILE) is None


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not the manifest"), ("{}", "is not the manifest"), ('{"version": 9}', "of version 9")]
)
def test_a_manifest_that_cannot_be_understood_is_named(
    archive: Directory, tmp_path: Path, text: str, told: str
) -> None:
    """A later herder may have written it."""
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ArchiveRefused, match=f"odd.json: .*{told}"):
        archive.manifests()


def test_what_is_discarded_is_gone(archive: Directory, tmp_path: Path) -> None:
    """Whole or not; and once more is no harm."""
    archive.write(FILE, incoming(b"abc"))
    (tmp_path / f".{FILE}.0bad.part").write_bytes(b"old")
    archive.discard(FILE)
    archive.discard(FILE)
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_worker_has_left_of_a_manifest_goes_with_the_next_one(archive: Directory, tmp_path: Path) -> None:
    """It is hidden, and nobody would ever look for it."""
    manifest = manifest_name(FILE)
    (tmp_path / f".{manifest}.0123abcd.part").write_bytes(b"{")
    archive.write_manifest(a_manifest())
    assert [each.name for each in tmp_path.iterdir()] == [manifest]
