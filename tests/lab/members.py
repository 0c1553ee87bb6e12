"""The cluster of the lab as a whole: brought back to where all of its members are at work."""

from collections.abc import Iterator, Mapping

from common.domain.errors import TemporaryError
from tests.lab.host import wait_until
from tests.lab.lab import CLUSTER, Lab
from tests.lab.pulls import Site


def healed(lab: Lab) -> Iterator[dict[str, Site]]:
    """The members of the cluster by name, all online and empty after: what a fixture yields from."""
    members = {name: Site.of(lab, name) for name in CLUSTER}
    yield members
    heal(members)


def heal(members: Mapping[str, Site]) -> None:
    """Bring every member back, whatever was done to it, and delete everything."""
    for member in members.values():
        member.server.thaw()
        member.server.start()
    bring_back(members)
    members["c1"].server.delete_all()


def bring_back(members: Mapping[str, Site]) -> None:
    """Make every member of the cluster Online, wherever its evacuation stopped."""
    anyone = members["c1"].client
    statuses: dict[str, str] = {}

    def all_are_seen() -> bool:
        try:
            found = anyone.transport.request("GET", "/1.0/cluster/members", params={"recursion": "1"}).metadata
            # A member may be Online some seconds before the others can ask it for its instances.
            reached = all(each.status != "Error" for each in anyone.instances(None))
        except TemporaryError:  # while the cluster elects a leader it cannot tell
            return False
        statuses.update({each["server_name"]: each["status"] for each in found})
        return reached and "Offline" not in statuses.values()

    wait_until("all members to be seen", all_are_seen, seconds=60)
    for name, seen in statuses.items():
        if seen == "Evacuated":
            restore = f"/1.0/cluster/members/{name}/state"
            members[name].server.query("POST", restore, {"action": "restore"})
