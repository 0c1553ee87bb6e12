"""How fast transfers flow: all of a server share its bandwidth, and a daemon that hangs holds its own still.

A transfer is recomputed only when something changes: one begins, ends, is held, or a daemon hangs.
"""

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulator.server import Server
    from tests.simulator.transfer import Transfer

#: What rsync, which compresses with one processor, sends in bytes per second.
RSYNC_RATE = 32_000_000.0
_DEAD_LINK = 120.7


def retime(*servers: "Server") -> None:
    """Share the bandwidth of these servers anew."""
    touched = {id(each): each for server in servers for each in server.transfers}
    for transfer in touched.values():
        transfer.settle()
    counts = {id(server): 0 for transfer in touched.values() for server in (transfer.server, transfer.target)}
    for transfer in touched.values():
        for server in (transfer.server, transfer.target):
            counts[id(server)] = sum(not each.is_held for each in server.transfers)
    for transfer in touched.values():
        if transfer.is_held:
            transfer.flow_at(0.0)
            continue
        source, target = transfer.server, transfer.target
        transfer.flow_at(min(source.bandwidth / counts[id(source)], target.bandwidth / counts[id(target)]))
    for server in servers:
        server.fleet.storage.watch(server)


def frozen(server: "Server") -> None:
    """A daemon hangs: what it was sending or receiving stands still; a source gives up after two minutes."""
    retime(server)
    for each in server.transfers:
        if each.target is server:
            server.clock.call_in(_DEAD_LINK, partial(_give_up, server, each))


def _give_up(server: "Server", transfer: "Transfer") -> None:
    if server.is_frozen and not transfer.is_over:
        error = "write: connection timed out"
        transfer.fail(f"Error transferring instance data: {error}", error)
