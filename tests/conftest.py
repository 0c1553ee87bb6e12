"""Fixtures for everybody: the lab, a real Redis, stores in a namespace of the test's own, a clock that stands still."""

import os
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from redis import Redis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from common.store.connect import connect
from common.store.events import EventStore
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from tests.builders import Clock
from tests.integration.redis_server import RedisServer
from tests.lab import INCUS_MACHINE_SERVERS, INCUS_SERVERS, MACHINE_SERVERS, Lab
from tests.lab.lab import default_root

# A parallel run sets it to the width of its own terminal, and rich would keep to that whatever a test sets.
os.environ.pop("COLUMNS", None)

# How long an example takes says how busy the machine is.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

# In a parallel run every process has a lab of its own.
if process := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ["HERDER_LAB"] = f"{default_root()}-{process}"

#: By the beginnings of their paths: tests that share a lab. It takes long to come up, so few processes shall have one.
LANES = {
    "tests/acceptance/test_archive_backup.py": "backups",
    "tests/acceptance/test_backup.py": "backups",
    "tests/acceptance/test_clusters.py": "cluster",
    "tests/acceptance/test_drill.py": "backups",
    "tests/acceptance/test_evacuate_member.py": "cluster",
    "tests/acceptance/test_export.py": "machines",
    "tests/acceptance/test_failover.py": "backups",
    "tests/acceptance/test_incus.py": "machines",
    "tests/acceptance/test_incus_machines.py": "machines",
    "tests/acceptance/test_lone_volumes.py": "backups",
    "tests/acceptance/test_machines.py": "machines",
    "tests/acceptance/test_machines_within_cluster.py": "machines",
    "tests/acceptance/test_refresh.py": "machines",
    "tests/acceptance/test_volumes_to_incus.py": "machines",
    "tests/acceptance/test_scheduler.py": "backups",
    "tests/acceptance/test_within_cluster.py": "cluster",
    "tests/acceptance/": "acceptance",
    "tests/lab/test_incus_machine_facts.py": "machines",
    "tests/lab/test_machine_facts.py": "machines",
    "tests/lab/": "facts",
}


class Lanes(LoadScopeScheduling):  # type: ignore[misc] # xdist ships no types
    """One process of a parallel run runs all tests of a lane, and whichever is free each other test."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, case = nodeid.partition("[")
        if file.startswith("tests/contract/") and "lxd" in case:
            return "facts"
        return next((lane for beginning, lane in LANES.items() if file.startswith(beginning)), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Who runs what in a parallel run."""
    return Lanes(config, log)


#: Of the exhaustive tests of a file, or of a class, an ordinary run takes every sixth one.
SAMPLE = 6


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--exhaustive`` runs all of them."""
    parser.addoption("--exhaustive", action="store_true", help=f"all exhaustive tests, not 1 in {SAMPLE}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave most exhaustive tests out: they tell of one behaviour at each of many places."""
    if config.getoption("--exhaustive"):
        return
    met: Counter[str] = Counter()
    left_out = []
    for item in items:
        if item.get_closest_marker("exhaustive"):
            group = item.nodeid.partition("[")[0].rpartition("::")[0]
            if met[group] % SAMPLE:
                left_out.append(item)
            met[group] += 1
    config.hook.pytest_deselected(items=left_out)
    gone = set(left_out)
    items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """All servers of the lab, running. It goes away with the run if the run brought it up."""
    was_there = default_root().exists()
    yield Lab.up()
    if not was_there:
        Lab.load().down()


@pytest.fixture(scope="session")
def incus() -> Iterator[Lab]:
    """The lab with two servers of LXD and two of Incus running; it goes away as ``lab`` does."""
    was_there = default_root().exists()
    yield Lab.up(("s1", "s2", *INCUS_SERVERS))
    if not was_there:
        Lab.load().down()


@pytest.fixture(scope="session")
def machines() -> Iterator[Lab]:
    """The lab with two servers of LXD running that run virtual machines; it goes away as ``lab`` does."""
    was_there = default_root().exists()
    yield Lab.up(MACHINE_SERVERS)
    if not was_there:
        Lab.load().down()


@pytest.fixture(scope="session")
def machines_of_incus() -> Iterator[Lab]:
    """The lab with one such server of LXD and two of Incus running; it goes away as ``lab`` does."""
    was_there = default_root().exists()
    yield Lab.up(("v1", *INCUS_MACHINE_SERVERS))
    if not was_there:
        Lab.load().down()


@pytest.fixture
def clock() -> Clock:
    """A clock that a test moves by hand."""
    return Clock()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis for the whole run; if no server is found, the tests fail."""
    server = RedisServer()
    server.start()
    yield server.url
    server.close()


@pytest.fixture(scope="session")
def shared_client(redis_url: str) -> "Redis":
    """One client for the whole run, as every process of herder has it."""
    return connect(redis_url)


@pytest.fixture
def keys() -> Keys:
    """The keys of a namespace that no other test uses."""
    return Keys(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def redis_client(shared_client: "Redis", keys: Keys) -> Iterator["Redis"]:
    """The client; what the test wrote is removed after it."""
    yield shared_client
    for found in shared_client.scan_iter(match=f"{keys.namespace}[:.]*", count=10_000):
        shared_client.unlink(found)


@pytest.fixture
def store(redis_client: "Redis", keys: Keys) -> JobStore:
    """Plans and jobs of the test's namespace."""
    return JobStore(redis_client, keys)


@pytest.fixture
def operations(redis_client: "Redis", keys: Keys, store: JobStore) -> OperationStore:
    """Operations of the test's namespace."""
    return OperationStore(redis_client, keys, store)


@pytest.fixture
def events(redis_client: "Redis", keys: Keys) -> EventStore:
    """Events of the test's namespace."""
    return EventStore(redis_client, keys)
