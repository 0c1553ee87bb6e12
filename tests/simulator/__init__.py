"""A fleet of simulated LXD servers, for what real ones are too slow or too few for.

One core answers requests on plain state in virtual time (``Server.handle``), behind two doors: ``adapter``, by which
herder's own client reaches it in process, and ``https``, a standalone server. ``tests.contract`` holds it to real LXD.

    fleet = Fleet()
    fleet.add("s1"); fleet.add("s2", driver="dir")
    fleet.launch("s1", "web1")
    client = client_of(fleet, "s1")
"""

from tests.simulator.clock import ScaledClock, VirtualClock
from tests.simulator.faults import Fault, Kind
from tests.simulator.fleet import Fleet
from tests.simulator.history import Entry
from tests.simulator.model import MIB, Data, Guest
from tests.simulator.server import Server
from tests.simulator.wire import Wire

__all__ = [
    "MIB",
    "Data",
    "Entry",
    "Fault",
    "Fleet",
    "Guest",
    "Kind",
    "ScaledClock",
    "Server",
    "VirtualClock",
    "Wire",
]
