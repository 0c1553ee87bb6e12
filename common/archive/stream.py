"""A backup on its way: counted, hashed, and never taken for whole when it is not.

In memory there is one piece of it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from common.domain.archive import Manifest
from common.domain.errors import TransferFailed, VerificationFailed

PIECE = 1024 * 1024


class Incoming:
    """What a server sends, as a file to read from. ``on_whole`` gets size and SHA-256 before the end is reported.

    ``on_piece`` is called now and then with the bytes so far. Raises TransferFailed instead of an end that comes too
    early, and whatever the two raise.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        size: int,
        *,
        on_piece: Callable[[int], None],
        on_whole: Callable[[int, str], None],
    ) -> None:
        self._pieces = pieces
        self.size = size
        self._on_piece, self._on_whole = on_piece, on_whole
        self._hash = hashlib.sha256()
        self._got = 0
        self._rest = b""
        self._is_over = False

    def read(self, count: int = PIECE) -> bytes:
        """Exactly ``count`` bytes, fewer only at the end: who reads takes a short answer for that."""
        parts, missing = [self._rest[:count]], count - len(self._rest)
        self._rest = self._rest[count:]
        while missing > 0 and not self._is_over:
            piece = self._next()
            parts.append(piece[:missing])
            self._rest, missing = piece[missing:], missing - len(piece)
        return b"".join(parts)

    def _next(self) -> bytes:
        piece = next(self._pieces, b"")
        self._got += len(piece)
        self._hash.update(piece)
        self._on_piece(self._got)
        if not piece:
            self._end()
        return piece

    def _end(self) -> None:
        if self._got != self.size:
            raise TransferFailed(f"the backup ended after {self._got} of {self.size} bytes")
        self._on_whole(self._got, self._hash.hexdigest())
        self._is_over = True


def verified(pieces: Iterable[bytes], manifest: Manifest, *, on_piece: Callable[[int], None]) -> Iterator[bytes]:
    """The pieces of a backup file; the last of them only if all together are what the manifest says.

    So whoever gets them never has the whole of a broken file. Raises VerificationFailed.
    """
    digest, got = hashlib.sha256(), 0

    def measured() -> Iterator[bytes]:
        nonlocal got
        for piece in pieces:
            digest.update(piece)
            got += len(piece)
            on_piece(got)
            yield piece
        yield b""

    last = b""
    for piece, last in pairwise(measured()):
        if last:
            yield piece
        elif (got, digest.hexdigest()) == (manifest.size, manifest.sha256):
            yield piece
            return
    raise VerificationFailed(
        f"{manifest.file} is not what its manifest says: {got} bytes with checksum {digest.hexdigest()[:12]}…, "
        f"not {manifest.size} with {manifest.sha256[:12]}…",
        hint="it was damaged or changed after the export; import another one of this instance",
    )
