"""What relays between simulated servers, in place of ``common.lxd.relay``: no bytes, but a wire through its process."""

from common.domain.errors import NotFound
from common.lxd.client import LxdClient
from common.lxd.migration import Offer
from tests.simulator import migration
from tests.simulator.fleet import Fleet
from tests.simulator.http import Refused
from tests.simulator.wire import Wire


def relay(fleet: Fleet, source: LxdClient, offer: Offer, target: LxdClient, awaited: Offer, *, limit: int = 0) -> Wire:
    """The wire, which breaks or stands still with the process that it leads through.

    Raises what a client raises whose server is away, and NotFound if one of them does not wait any more.
    """
    for client, waiting in ((source, offer), (target, awaited)):
        client.operation(waiting.operation)
    giver, taker = fleet.servers[source.remote], fleet.servers[target.remote]
    with fleet.clock.lock:
        wire = Wire(giver, limit=limit)
        try:
            migration.join(giver, offer.operation, taker, awaited.operation, wire)
        except Refused as refused:
            raise NotFound(f"{source.remote} or {target.remote}: {refused.text}") from refused
    return wire
