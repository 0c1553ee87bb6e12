"""What a cluster of LXD 5.0.2 does with an instance that is copied from one of its members to another.

The facts on which a move within a cluster is built. One client asks: `c1`, which neither sends nor receives.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from common.domain.errors import ServerRefused, ServerUnreachable
from common.domain.instance import GUARD_DEVICE, Instance
from common.lxd.client import LxdClient
from common.lxd.migration import Transfer, receive_body
from tests.lab import Lab
from tests.lab.host import wait_until
from tests.lab.members import bring_back, healed
from tests.lab.pulls import Pull, Site, done, finished

pytestmark = pytest.mark.lab

NAME, COPY, RETIRED = "web", "web-copy", "web-retired"
PROFILE = "herder-test"
GUARD = {"type": "unix-char", "source": "/dev/herder-guard", "path": "/dev/herder-guard"}
INSTANCE_ID = "volatile.cloud-init.instance-id"


@dataclass(frozen=True)
class Cluster:
    """The cluster by the client of `c1`; the instance is on `c2` and goes to `c3`."""

    members: dict[str, Site]

    @property
    def client(self) -> LxdClient:
        return self.members["c1"].client

    @property
    def source(self) -> Site:
        return self.members["c2"]

    @property
    def target(self) -> Site:
        return self.members["c3"]

    def get(self, name: str = NAME) -> Instance:
        return self.client.instance(name)

    def snapshots(self, name: str) -> list[str]:
        return [each.name for each in self.client.snapshots(name)]

    def pull(self, *, refresh: bool = False, onto: str = "c3", by: str = "c2") -> Pull:
        """Begin to copy the instance under the copy's name; the target dials the member ``by``."""
        instance = self.get()
        offer = self.client.offer(NAME)
        server = self.members[by].server
        body = receive_body(
            instance,
            name=COPY,
            config={**instance.own_config, **instance.identity},
            devices={GUARD_DEVICE: GUARD},
            profiles=["default"],
            source=Transfer(
                offer=offer, address=server.address, certificate=server.certificate.read_text(), refresh=refresh
            ),
        )
        return Pull(self.client, self.client, offer.operation, self.client.at(onto).receive(body))

    def guard(self) -> None:
        """Give the instance the guard through a profile, as it runs."""
        self.client.create_profile(PROFILE)
        self.client.patch(NAME, profiles=("default", PROFILE))
        self.client.replace_profile(
            self.client.profile(PROFILE), description="", config={}, devices={GUARD_DEVICE: GUARD}
        )


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    """The cluster with a running instance on `c2` that has a snapshot."""
    for members in healed(lab):
        there = Cluster(members)
        members["c1"].server.delete_all()
        there.source.server.launch(NAME)
        there.source.snapshot(NAME, "s0")
        yield there
    if PROFILE in {profile.name for profile in there.client.profiles()}:
        there.client.delete_profile(PROFILE)


class TestTheCopy:
    """A copy under another name, on another member."""

    @pytest.mark.parametrize("by", ["c2", "c1"])
    def test_it_is_made_and_refreshed_while_the_instance_runs(self, cluster: Cluster, by: str) -> None:
        """Whether the target dials the instance's own member or another one; uuid and address are in use twice."""
        cluster.pull(by=by).succeed()
        cluster.source.snapshot(NAME, "s1")
        cluster.pull(refresh=True, by=by).succeed()
        source, copy = cluster.get(), cluster.get(COPY)
        assert (source.status, source.location, copy.location) == ("Running", "c2", "c3")
        assert copy.identity == source.identity
        assert cluster.snapshots(COPY) == ["s0", "s1"]

    @pytest.mark.parametrize("onto", ["", "c1"])
    def test_a_refresh_has_to_name_its_member(self, cluster: Cluster, onto: str) -> None:
        """Without it, or with another one, it fails, and the copy is as it was."""
        cluster.pull().succeed()
        cluster.source.snapshot(NAME, "s1")
        source, target = cluster.pull(refresh=True, onto=onto).ended()
        assert "Instance storage pool not found" in target.error
        assert not source.succeeded
        assert (cluster.snapshots(COPY), cluster.get(COPY).location) == (["s0"], "c3")
        cluster.pull(refresh=True).succeed()

    def test_a_member_tells_its_own_process_and_its_own_address(self, cluster: Cluster) -> None:
        """Through any other member, and with the one certificate that all of them show."""
        for name, member in cluster.members.items():
            info = cluster.client.at(name).info()
            assert info.pid == member.server.pid
            assert info.addresses == (member.server.address.removeprefix("https://"),)
            assert info.certificate == member.server.certificate.read_text()


class TestTheGuard:
    """The device that keeps a container from starting."""

    def test_a_profile_gives_it_to_an_instance_of_another_member(self, cluster: Cluster) -> None:
        """The member refuses to plug it in, and the profile is saved: the instance runs, and never starts again."""
        cluster.pull().succeed()
        cluster.guard()
        assert (cluster.get().is_guarded, cluster.get().status) == (True, "Running")
        done(cluster.client, cluster.client.force_stop(NAME))
        for name in (NAME, COPY):
            assert GUARD_DEVICE in finished(cluster.client, cluster.client.start(name)).error

    def test_it_can_be_given_and_taken_while_a_member_is_down(self, cluster: Cluster) -> None:
        """So the instance is given back although its target has died."""
        cluster.target.server.kill()
        cluster.guard()
        assert cluster.get().is_guarded
        seen = cluster.client.profile(PROFILE)
        cluster.client.replace_profile(seen, description="", config={}, devices={})
        assert not cluster.get().is_guarded


class TestTheName:
    """There is one name for the whole cluster, so the copy takes over the instance's."""

    def test_only_a_stopped_instance_gives_its_name_up(self, cluster: Cluster) -> None:
        ended = finished(cluster.client, cluster.client.rename(NAME, RETIRED))
        assert "Renaming of running container not allowed" in ended.error
        assert cluster.get().status == "Running"

    def test_nobody_takes_a_name_that_is_in_use(self, cluster: Cluster) -> None:
        """So a late request to rename finds the new name taken, and changes nothing."""
        cluster.pull().succeed()
        for name, new in ((COPY, NAME), (NAME, COPY)):
            with pytest.raises(ServerRefused, match="already in use"):
                cluster.client.rename(name, new)

    def test_the_copy_takes_it_with_its_snapshots_and_starts(self, cluster: Cluster) -> None:
        """Stopped and guarded, the one gives the name up and the other takes it."""
        cluster.pull().succeed()
        cluster.guard()
        done(cluster.client, cluster.client.force_stop(NAME))
        done(cluster.client, cluster.client.rename(NAME, RETIRED))
        done(cluster.client, cluster.client.rename(COPY, NAME))
        source, copy = cluster.get(RETIRED), cluster.get()
        assert (source.location, source.is_guarded, copy.location, copy.is_guarded) == ("c2", True, "c3", True)
        assert cluster.snapshots(RETIRED) == cluster.snapshots(NAME) == ["s0"]
        done(cluster.client, cluster.client.replace(copy, config=copy.config, devices={}))
        done(cluster.client, cluster.client.start(NAME))
        assert (cluster.get().status, cluster.get(RETIRED).status) == ("Running", "Stopped")

    def test_a_rename_makes_it_another_machine_to_cloud_init_unless_told_otherwise(self, cluster: Cluster) -> None:
        """It gets another instance-id; a change of the whole config puts the old one back, and it is kept."""
        was = cluster.get().config[INSTANCE_ID]
        done(cluster.client, cluster.client.force_stop(NAME))
        done(cluster.client, cluster.client.rename(NAME, RETIRED))
        renamed = cluster.get(RETIRED)
        assert renamed.config[INSTANCE_ID] != was
        done(cluster.client, cluster.client.replace(renamed, config={**renamed.config, INSTANCE_ID: was}, devices={}))
        done(cluster.client, cluster.client.start(RETIRED))
        assert cluster.get(RETIRED).config[INSTANCE_ID] == was


class TestAMemberThatDies:
    """SIGKILL of a daemon in the middle of a pass, seen through another member."""

    def test_the_target_leaves_a_wreck_that_can_be_renamed(self, cluster: Cluster) -> None:
        """While it is away nobody tells of the wreck, nor of the operation; the source runs on.

        Whether it can be deleted depends on the moment; renamed, it leaves its name to another copy.
        """
        cluster.source.write(NAME, mib=500)
        cluster.source.snapshot(NAME, "s1")
        passing = cluster.pull()
        wait_until("the first bytes", lambda: self._has_begun(cluster))
        cluster.target.server.kill()
        assert not finished(cluster.client, passing.offered).succeeded
        with pytest.raises(ServerUnreachable):
            cluster.client.instance(COPY)
        with pytest.raises(ServerUnreachable):
            cluster.client.operation(passing.received)
        assert cluster.get().status == "Running"
        cluster.target.server.start()
        bring_back(cluster.members)
        wreck = cluster.get(COPY)
        assert (wreck.status, wreck.config.get("volatile.apply_template")) == ("Stopped", None)
        done(cluster.client, cluster.client.rename(COPY, "web-wreck"))
        cluster.pull().succeed()

    def test_the_source_leaves_the_copy_as_it_was(self, cluster: Cluster) -> None:
        """Its guest runs on; when it is back, the next refresh brings everything."""
        cluster.pull().succeed()
        cluster.source.write(NAME, mib=300)
        cluster.source.snapshot(NAME, "s1")
        passing = cluster.pull(refresh=True)
        wait_until("the first bytes", lambda: bool(cluster.client.operation(passing.offered)))
        cluster.source.server.kill()
        assert not finished(cluster.client, passing.received).succeeded
        assert (cluster.get(COPY).status, cluster.snapshots(COPY)) == ("Stopped", ["s0"])
        with pytest.raises(ServerUnreachable):
            cluster.get()
        cluster.source.server.start()
        bring_back(cluster.members)
        assert cluster.get().status == "Running"
        cluster.source.snapshot(NAME, "s2")
        cluster.pull(refresh=True).succeed()
        assert cluster.snapshots(COPY) == ["s0", "s1", "s2"]

    def _has_begun(self, cluster: Cluster) -> bool:
        """Whether the copy is on the target's disk."""
        return cluster.target.root_of(COPY, snapshot="s0").parent.exists()


class TestAMemberInMaintenance:
    """Evacuated by the server's own word, which moves nothing if there is nothing."""

    def test_an_empty_one_is_evacuated_and_restored_at_once(self, cluster: Cluster) -> None:
        """What names it is still placed on it, so nobody but herder keeps a copy away from it."""
        path = "/1.0/cluster/members/c3/state"
        cluster.target.server.query("POST", path, {"action": "evacuate"})
        assert {each.name: each.status for each in cluster.client.members()}["c3"] == "Evacuated"
        cluster.pull().succeed()
        assert cluster.get(COPY).location == "c3"
        done(cluster.client, cluster.client.delete(COPY))
        cluster.target.server.query("POST", path, {"action": "restore"})
        assert {each.status for each in cluster.client.members()} == {"Online"}
