"""The servers that the contract is held against: simulated in process, simulated over HTTPS, real ones of the lab."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.sites import Real, Site, in_process, over_https
from tests.lab import Lab
from tests.lab.pulls import Site as LabSite
from tests.simulator import Fleet, ScaledClock, VirtualClock
from tests.simulator.served import Served

_DRIVERS = {"s1": "btrfs", "s2": "btrfs", "d1": "dir"}
#: Slow enough that a transfer can be caught in its first megabytes.
_BANDWIDTH = 100e6


@pytest.fixture(
    scope="package",
    params=["simulator", "https", pytest.param("lxd", marks=pytest.mark.lab)],
)
def site_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Site]]:
    """The server of this name."""
    if request.param == "lxd":
        lab: Lab = request.getfixturevalue("lab")
        sites = {name: Real(LabSite.of(lab, name), lab.lxc_conf) for name in _DRIVERS}
        yield lambda name: sites[name]
        for site in sites.values():
            site.clean()
    elif request.param == "https":
        options = {name: {"driver": driver, "bandwidth": _BANDWIDTH} for name, driver in _DRIVERS.items()}
        with Served.begin(options, tmp_path_factory.mktemp("lxc"), scale=2) as served:
            assert isinstance(served.fleet.clock, ScaledClock)
            yield lambda name: over_https(served, name)
    else:
        fleet = Fleet(VirtualClock())
        for name, driver in _DRIVERS.items():
            fleet.add(name, driver=driver, bandwidth=_BANDWIDTH)
        yield lambda name: in_process(fleet, name)


@pytest.fixture
def sites(site_of: Callable[[str], Site]) -> dict[str, Site]:
    """All of them, with nothing on them."""
    found = {name: site_of(name) for name in _DRIVERS}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda site: site.clean(), found.values()))
    return found


@pytest.fixture
def s1(sites: dict[str, Site]) -> Site:
    """A server with a btrfs pool."""
    return sites["s1"]


@pytest.fixture
def s2(sites: dict[str, Site]) -> Site:
    """Another one with a btrfs pool."""
    return sites["s2"]


@pytest.fixture
def d1(sites: dict[str, Site]) -> Site:
    """A server with a dir pool."""
    return sites["d1"]
