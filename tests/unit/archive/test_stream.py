"""A backup on its way: counted, hashed, and never taken for whole when it is not."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.archive.stream import Incoming, verified
from common.domain.errors import TransferFailed, VerificationFailed
from tests.builders import a_manifest

PIECES = (b"abc", b"defgh", b"i")
WHOLE = b"".join(PIECES)
SHA = hashlib.sha256(WHOLE).hexdigest()
MANIFEST = replace(a_manifest(), size=len(WHOLE), sha256=SHA)


def nothing(_sent: int) -> None:
    """What is called for each piece."""


@pytest.mark.parametrize("count", [1, 2, 4, 9, 100])
def test_whoever_reads_gets_as_much_as_he_asks_for_until_the_end(count: int) -> None:
    """A short answer means the end; size and checksum are told before it is reported."""
    told: list[tuple[int, str]] = []
    seen: list[int] = []
    incoming = Incoming(
        iter(PIECES), len(WHOLE), on_piece=seen.append, on_whole=lambda size, sha: told.append((size, sha))
    )
    read = []
    while piece := incoming.read(count):
        read.append(piece)
    assert b"".join(read) == WHOLE
    assert all(len(piece) == count for piece in read[:-1])
    assert told == [(len(WHOLE), SHA)]
    assert seen[-1] == len(WHOLE)


@pytest.mark.parametrize("size", [len(WHOLE) - 1, len(WHOLE) + 1])
def test_a_backup_that_is_not_as_long_as_was_said_never_ends(size: int) -> None:
    """Not even for a reader who asks for more than there is."""
    told: list[int] = []
    incoming = Incoming(iter(PIECES), size, on_piece=nothing, on_whole=lambda got, _: told.append(got))
    with pytest.raises(TransferFailed, match=f"after 9 of {size} bytes"):
        incoming.read(100)
    assert told == []


def test_an_error_of_the_server_reaches_the_reader() -> None:
    """As it is."""

    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        Incoming(broken(), 9, on_piece=nothing, on_whole=lambda *_: None).read(9)


def test_a_sound_file_is_passed_on_whole() -> None:
    """Piece by piece."""
    assert tuple(verified(PIECES, MANIFEST, on_piece=nothing)) == PIECES


@pytest.mark.parametrize(
    "pieces",
    [(b"abc", b"dXfgh", b"i"), (b"abc", b"defgh"), (*PIECES, b"j"), (b"abc",), ()],
    ids=["changed", "cut", "longer", "one piece", "empty"],
)
def test_of_a_broken_file_the_last_piece_is_never_passed_on(pieces: tuple[bytes, ...]) -> None:
    """So nobody can make anything of it."""
    got: list[bytes] = []
    with pytest.raises(VerificationFailed, match="is not what its manifest says"):
        got.extend(verified(pieces, MANIFEST, on_piece=nothing))
    assert tuple(got) == pieces[:-1]
