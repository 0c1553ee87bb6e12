"""Generations in an archive: what does not arrive as it was sent never counts, and only what is superfluous goes."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from common.archive.directory import Directory
from common.archive.stream import Incoming
from common.domain.archive import generation_file, manifest_name
from common.domain.errors import ArchiveRefused, TransferFailed
from common.domain.generation import BackupOrder
from common.domain.job import Job, Kind
from common.domain.plan import Compression, Method
from common.domain.retention import Retention
from tests.builders import NOW, a_manifest, a_move, a_running_job, an_order
from workers.steps.archiving import prune_archive, verify_export
from workers.steps.context import Context
from workers.steps.exporting import check_archive, is_exported

DAY = timedelta(days=1)
DATA = b"all of it"


class Killed(BaseException):
    """SIGKILL: nothing more is done, nothing is cleaned up."""


@dataclass
class Vault:
    """An archive in a directory, and a job that may be killed before each thing that it does to the world."""

    folder: Path
    keep: int = 2
    job: Job = field(init=False)
    kill_at: int = 0
    done: int = 0
    seen: list[tuple[set[int], set[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.job = a_running_job("prune_archive", move=self.move(0), facts={"whole": whole(DATA)})

    @property
    def archive(self) -> Directory:
        return Directory(self.folder)

    def order(self, nights_ago: int) -> BackupOrder:
        return an_order(at=NOW - nights_ago * DAY, keep_on_target=Retention(last=self.keep))

    def file(self, nights_ago: int, source: str = "s1:default/web1") -> str:
        return generation_file(self.order(nights_ago), source, Compression.NONE)

    def move(self, nights_ago: int) -> Any:
        return a_move(
            method=Method.ARCHIVE, target=str(self.folder), file=self.file(nights_ago), backup=self.order(nights_ago)
        )

    def make(self, nights_ago: int, **changes: Any) -> None:
        """A generation, whole and with its manifest."""
        file = changes.setdefault("file", self.file(nights_ago))
        self.write(file)
        self.archive.write_manifest(
            a_manifest(**({**whole(DATA), "policy": "nightly", "at": NOW - nights_ago * DAY} | changes))
        )

    def write(self, file: str, data: bytes = DATA) -> None:
        self.archive.write(file, Incoming(iter([data]), len(data), on_piece=lambda _: None, on_whole=lambda *_: None))

    def told(self) -> set[int]:
        """How many nights ago those were that have a manifest."""
        return {(NOW - each.at).days for each in self.archive.manifests() if each.at}

    def generations(self) -> set[int]:
        """How many nights ago those were whose file is there as its manifest says."""
        sizes = self.archive.sizes()
        good = (each for each in self.archive.manifests() if sizes.get(each.file) == each.size)
        return {(NOW - each.at).days for each in good if each.at}

    def context(self) -> Context:
        """For one more attempt, from the newest checkpoint."""
        dying = Mock(wraps=self.archive)
        for name in ("withdraw", "discard"):
            getattr(dying, name).side_effect = self.dies_before(getattr(self.archive, name))
        dying.where = self.archive.where

        def save(job: Job) -> None:
            self.job = job

        nothing: Any = lambda *_: None  # noqa: E731
        return Context(
            job=self.job,
            source=Mock(),
            target=Mock(),
            log=Mock(),
            now=lambda: NOW,
            confirm_fence=self.dies_before(nothing),
            save=self.dies_before(save),
            memo=nothing,
            carry=Mock(),
            streams=threading.BoundedSemaphore(1),
            keep_alive=nothing,
            client_of=Mock(),
            archive_at=lambda _: dying,
        )

    def dies_before(self, act: Callable[..., None]) -> Callable[..., None]:
        def acted(*arguments: Any) -> None:
            self.done += 1
            if self.done == self.kill_at:
                raise Killed
            act(*arguments)
            self.seen.append((self.told(), self.generations()))

        return acted


def whole(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": sha256(data).hexdigest()}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path)


def names(vault: Vault) -> set[str]:
    return {each.name for each in vault.folder.iterdir()}


def both(file: str) -> set[str]:
    return {file, manifest_name(file)}


def deaths(folder: Path) -> Iterator[Vault]:
    """Of one archive after the other the step dies one moment later; the last time it does not die."""
    for kill_at in range(1, 99):
        vault = Vault(folder / str(kill_at), kill_at=kill_at)
        vault.folder.mkdir()
        yield vault
        if vault.done < kill_at:
            return


def test_whenever_it_dies_only_what_is_not_kept_goes_and_all_of_it(tmp_path: Path) -> None:
    """Of this policy and instance alone; a file whose manifest went first does not stay, and never counts."""
    tried = 0
    for vault in deaths(tmp_path):
        for nights_ago in range(5):
            vault.make(nights_ago)
        others = vault.file(9, "s1:default/other")
        vault.make(9, instance="other", file=others)
        vault.make(9, policy="weekly", file="weekly.tar")
        try:
            prune_archive(vault.context())
        except Killed:
            assert prune_archive(vault.context()).kind is Kind.COMPLETED
        assert all({0, 1} <= there and told == there for told, there in vault.seen)
        assert names(vault) == both(vault.file(0)) | both(vault.file(1)) | both(others) | both("weekly.tar")
        tried += 1
    assert tried > 9


def test_the_last_good_one_stays_though_newer_ones_are_broken(vault: Vault) -> None:
    """A manifest whose file is gone or cut is kept by the rule, and restores nothing."""
    vault.keep = 1
    vault.job = a_running_job("prune_archive", move=vault.move(0))
    for nights_ago in range(3):
        vault.make(nights_ago)
    (vault.folder / vault.file(0)).unlink()
    (vault.folder / vault.file(1)).write_bytes(DATA[:-1])
    prune_archive(vault.context())
    assert 2 in vault.generations()


def test_what_nobody_finishes_any_more_goes_and_what_somebody_may_is_left(vault: Vault) -> None:
    """Files without a manifest, whole or not, count from the moment in which they were last written to."""
    vault.make(0)
    old, young, other = vault.file(4), vault.file(1), vault.file(4, "s1:default/other")
    for file in (old, young, other):
        vault.write(file)
        (vault.folder / f".{file}.0123abcd.part").write_bytes(b"some")
    for path in vault.folder.iterdir():
        written = (NOW - (1 if young in path.name else 4) * DAY).timestamp()
        os.utime(path, (written, written))
    prune_archive(vault.context())
    kept = [each for file in (young, other) for each in (file, f".{file}.0123abcd.part")]
    assert names(vault) == {*both(vault.file(0)), *kept}
    assert vault.generations() == {0}


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the manifest would say, without a server to ask."""
    sent = a_manifest(**whole(DATA))
    monkeypatch.setattr("workers.steps.archiving.manifest_of", lambda _: sent)


@pytest.mark.usefixtures("certified")
def test_what_was_not_kept_as_it_was_sent_is_carried_again_and_never_counts(vault: Vault) -> None:
    """As many bytes, but others; that file goes, and the step is tried again."""
    vault.write(vault.file(0), DATA[::-1])
    with pytest.raises(TransferFailed, match="carried once more"):
        verify_export(vault.context())
    assert names(vault) == set()
    vault.write(vault.file(0))
    assert verify_export(vault.context()).kind is Kind.COMPLETED
    assert names(vault) == {vault.file(0)}


@pytest.fixture
def fingerprint(monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the certificate of the source."""
    monkeypatch.setattr("workers.steps.exporting._fingerprint", lambda _: "f1")
    return "f1"


def test_what_another_job_of_the_run_has_finished_is_this_one_s_too(vault: Vault, fingerprint: str) -> None:
    """Redis was lost with the job that made it; the run that is submitted again numbers its jobs in another way."""
    vault.make(0, job="p1-7", fingerprint=fingerprint)
    assert is_exported(vault.context())
    assert check_archive(vault.context()).kind is Kind.COMPLETED


@pytest.mark.parametrize("changes", [{"fingerprint": "f2"}, {"policy": ""}, {"at": NOW + DAY}, {"project": "shop"}])
@pytest.mark.usefixtures("fingerprint")
def test_what_another_server_or_run_has_there_is_left_alone(vault: Vault, changes: dict[str, Any]) -> None:
    """Though it has the name: an archive may be shared by two who know nothing of each other."""
    vault.make(0, **({"job": "p1-7", "fingerprint": "f1"} | changes))
    with pytest.raises(ArchiveRefused, match="never overwritten"):
        check_archive(vault.context())
    assert names(vault) == both(vault.file(0))


def test_what_a_lost_job_of_the_run_has_left_unfinished_is_in_nobody_s_way(vault: Vault) -> None:
    """A file of an export is refused, for it may be anybody's; that of a generation is its run's by its name."""
    vault.write(vault.file(0))
    assert check_archive(vault.context()).facts["name_was_free"]
    vault.job = a_running_job("check_archive", move=replace(vault.move(0), method=Method.EXPORT, backup=None))
    with pytest.raises(ArchiveRefused):
        check_archive(vault.context())
