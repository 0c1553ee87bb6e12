"""The link of one server of the lab: all of them share a machine and its loopback, which no cluster does."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab import LabServer, host

_MEBIBIT = 8 * 1024**2
#: Connections are spread over so many queues by their other port, so that short requests pass by long transfers.
_QUEUES = 64


@contextmanager
def limited(server: LabServer, mebibytes_per_second: int) -> Iterator[None]:
    """All that comes to the server's port and goes from it is sent no faster; 0 is no limit.

    It needs root and puts the loopback's own queue back at the end. Nobody else's traffic is touched.
    """
    if not mebibytes_per_second:
        yield
        return
    host.run("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb")
    try:
        host.run("tc", "-batch", "-", text="\n".join(_commands(server.port, mebibytes_per_second * _MEBIBIT)))
        yield
    finally:
        host.run("tc", "qdisc", "del", "dev", "lo", "root")


def _commands(port: int, rate: int) -> Iterator[str]:
    yield f"class add dev lo parent 1: classid 1:1 htb rate {rate}bit"
    for number in range(_QUEUES):
        queue = f"1:{number + 16:x}"
        fair = f"rate {rate // _QUEUES}bit ceil {rate}bit quantum 65536"
        yield f"class add dev lo parent 1:1 classid {queue} htb {fair}"
        for side, other in (("sport", "dport"), ("dport", "sport")):
            match = f"match ip {side} {port} 0xffff match ip {other} {number} {_QUEUES - 1:#06x}"
            yield f"filter add dev lo parent 1: protocol ip u32 {match} flowid {queue}"
