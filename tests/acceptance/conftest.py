"""The lab, its servers cleaned before and after each test, and a user of herder.

Tests that are marked ``incus_too`` run twice: with the servers of the lab, and with two of Incus of the same names.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.acceptance import world
from tests.acceptance.killed import Killed
from tests.acceptance.story import Herder
from tests.lab import Lab, LabServer, host
from tests.lab.lab import default_root
from tests.lab.product import INCUS, LXD

OTHER_PRODUCT = "incus_too"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Nothing comes twice in a lab that is one of Incus throughout."""
    is_of_incus = os.environ.get("HERDER_LAB_PRODUCT") == INCUS.name
    if metafunc.definition.get_closest_marker(OTHER_PRODUCT) and not is_of_incus:
        metafunc.parametrize("lab", [LXD.name, INCUS.name], indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a lab that is one of Incus throughout, nothing is asked that is about LXD."""
    if os.environ.get("HERDER_LAB_PRODUCT") == INCUS.name:
        about_lxd = [item for item in items if item.get_closest_marker("of_lxd")]
        items[:] = [item for item in items if item not in about_lxd]
        config.hook.pytest_deselected(items=about_lxd)


@pytest.fixture(scope="session")
def lab_of_incus() -> Iterator[Lab]:
    """Another lab beside the lab: ``s1`` and ``s2`` are servers of Incus."""
    root = Path(f"{default_root()}-incus")
    was_there = root.exists()
    made = Lab.up(("s1", "s2"), root, product=INCUS.name)
    yield made
    if not was_there:
        made.down()


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Lab:
    """The lab whose servers the test is about."""
    is_other = getattr(request, "param", LXD.name) == INCUS.name
    found: Lab = request.getfixturevalue("lab_of_incus" if is_other else "lab")
    return found


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


@pytest.fixture
def shelf(home: Path) -> Path:
    """An empty directory for exports."""
    folder = home / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    yield f"http://{address}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str) -> Any:
    """An empty bucket, as its owner sees it."""
    session = boto3.session.Session("lab", "lab", region_name="us-east-1")
    made = session.resource("s3", endpoint_url=s3).create_bucket(Bucket="shelf")
    made.objects.all().delete()
    return made


@pytest.fixture
def killed(herder: Herder, redis_url: str) -> Killed:
    """A user whose workers are killed one after the other."""
    namespace = f"export-{herder.home.name}"
    return Killed(herder.having(HERDER_REDIS_URL=redis_url, HERDER_NAMESPACE=namespace), namespace)
