"""The lab, its servers cleaned before and after each test, and a user of herder."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import world
from tests.acceptance.story import Herder
from tests.lab import Lab, LabServer, host


@pytest.fixture
def s1(lab: Lab) -> Iterator[LabServer]:
    yield from world.cleaned(lab.servers["s1"])


@pytest.fixture
def s2(lab: Lab) -> Iterator[LabServer]:
    yield from world.cleaned(lab.servers["s2"])


@pytest.fixture
def d1(lab: Lab) -> Iterator[LabServer]:
    yield from world.cleaned(lab.servers["d1"])


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, for the sockets in it. When it goes, nothing that was started in it runs any more."""
    folder = Path(tempfile.mkdtemp(prefix="hs", dir="/tmp"))
    yield folder
    try:
        host.wait_until(f"the end of what runs in {folder}", lambda: not _at_work_in(folder))
    finally:
        host.end_all(_at_work_in(folder))
        shutil.rmtree(folder)


def _at_work_in(folder: Path) -> list[host.Process]:
    return [process for process in host.processes() if process.environment.get("HOME") == str(folder)]


@pytest.fixture
def herder(lab: Lab, home: Path) -> Herder:
    """A user of the lab's servers with an embedded Redis."""
    return Herder.of(lab, home)
