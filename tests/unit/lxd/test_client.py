"""What the calls send where a mistake would do harm, and how they read what the server forgets."""

import pytest

from common.domain.errors import InputError, NotTrusted, ServerRefused
from common.domain.instance import Instance
from common.domain.operation import Operation
from common.domain.volume import Volume
from common.lxd.client import LxdClient
from tests.builders import NOW
from tests.unit.lxd.scripted import ScriptedServer, after_file, answer, refuse

BEGUN = answer({"id": "4f2", "status_code": 103}, status=202, operation="/1.0/operations/4f2")
GONE = refuse(404, "Operation not found")


@pytest.fixture
def client(server: ScriptedServer) -> LxdClient:
    server.will(BEGUN)
    return LxdClient("s1", server.transport())


def test_a_graceful_stop_gives_the_guest_its_time(client: LxdClient, server: ScriptedServer) -> None:
    assert client.stop("c1", grace_seconds=30, project="p2") == "4f2"
    assert (server.heard[0].method, server.heard[0].path) == ("PUT", "/1.0/instances/c1/state?project=p2")
    assert server.heard[0].body == {"action": "stop", "timeout": 30, "force": False}


@pytest.mark.parametrize("grace", [0, -1])
def test_a_stop_without_grace_is_refused_because_lxd_would_pull_the_plug(client: LxdClient, grace: int) -> None:
    with pytest.raises(InputError, match="pull the plug"):
        client.stop("c1", grace_seconds=grace)


def test_a_record_without_a_root_directory_has_no_files(client: LxdClient, server: ScriptedServer) -> None:
    server.will(
        refuse(500, "open /var/lib/lxd/containers/c1/rootfs: no such file or directory"),
        answer(["bin", "etc"]),
        refuse(500, "Failed to mount"),
    )
    assert not client.has_files("c1", project="p2")
    assert server.heard[0].path == "/1.0/instances/c1/files?project=p2&path=%2F"
    assert client.has_files("c1")
    with pytest.raises(ServerRefused, match="Failed to mount"):
        client.has_files("c1")


def test_the_space_of_a_root_disk_is_none_where_the_server_does_not_tell(
    client: LxdClient, server: ScriptedServer
) -> None:
    server.will(answer({"disk": {"root": {"usage": 4096}}}), answer({"disk": {}}), answer({"disk": None}))
    assert [client.used_space("c1") for _ in range(3)] == [4096, 0, 0]


def test_pulling_the_plug_is_said_aloud(client: LxdClient, server: ScriptedServer) -> None:
    client.force_stop("c1")
    assert server.heard[0].body == {"action": "stop", "timeout": -1, "force": True}


def test_replacing_writes_what_was_read_only_if_it_is_still_so(client: LxdClient, server: ScriptedServer) -> None:
    read = Instance(name="c1", project="p2", profiles=("web",), etag="abc", config={"a": "1"})
    client.replace(read, config={"a": "2"}, devices={"root": {"type": "disk"}})
    assert (server.heard[0].method, server.heard[0].path) == ("PUT", "/1.0/instances/c1?project=p2")
    assert server.heard[0].headers["If-Match"] == "abc"
    assert server.heard[0].body["profiles"] == ["web"]
    assert server.heard[0].body["config"] == {"a": "2"}


def test_changing_one_thing_leaves_the_description(client: LxdClient, server: ScriptedServer) -> None:
    server.will(answer({"name": "c1", "description": "web"}), answer({}))
    client.patch("c1", config={"user.a": "1"}, devices={"eth0": {"type": "none"}}, project="p2")
    assert (server.heard[1].method, server.heard[1].path) == ("PATCH", "/1.0/instances/c1?project=p2")
    assert server.heard[1].body == {
        "description": "web",
        "config": {"user.a": "1"},
        "devices": {"eth0": {"type": "none"}},
    }


def test_an_offer_gives_the_secrets(client: LxdClient, server: ScriptedServer) -> None:
    secrets = {"control": "21", "fs": "a1"}
    server.will(
        answer({"id": "4f2", "status_code": 103, "metadata": secrets}, status=202, operation="/1.0/operations/4f2")
    )
    offer = client.offer("c1", allow_inconsistent=True)
    assert (offer.operation, offer.secrets) == ("4f2", secrets)
    assert server.heard[0].body["live"] is False
    assert server.heard[0].body["allow_inconsistent"] is True


def test_a_copy_is_received_on_the_member_that_was_chosen(client: LxdClient, server: ScriptedServer) -> None:
    assert client.at("c2").receive({"name": "c1"}, project="p2") == "4f2"
    assert server.heard[0].path == "/1.0/instances?project=p2&target=c2"


def test_a_member_of_a_cluster_is_asked_through_any_other(client: LxdClient, server: ScriptedServer) -> None:
    """And it is dialled where it says itself, rather than through the one that we ask."""
    server.will(answer({"auth": "trusted", "environment": {"addresses": ["10.0.0.2:8443"]}}))
    assert client.at("c2").addresses() == ("https://10.0.0.2:8443", server.address)
    assert server.heard[0].path == "/1.0?target=c2"


def test_a_member_is_asked_for_the_interfaces_of_the_host_that_answers(
    client: LxdClient, server: ScriptedServer
) -> None:
    """A listing has no others; what the cluster manages all have."""
    listed = [
        {"name": "lxdbr0", "type": "bridge", "managed": True},
        {"name": "br0", "type": "bridge", "managed": False},
        {"name": "br1", "type": "bridge", "managed": False},
        {"name": "lo", "type": "loopback", "managed": False},
    ]
    server.will(answer(listed), answer({"name": "br0"}), refuse(404, "Network not found"))
    assert client.at("c2").lacking_interfaces() == {"br1"}
    assert [heard.path for heard in server.heard[1:]] == ["/1.0/networks/br0?target=c2", "/1.0/networks/br1?target=c2"]
    assert client.lacking_interfaces() == frozenset()


def test_members_tell_how_they_are(client: LxdClient, server: ScriptedServer) -> None:
    record = {"server_name": "c2", "url": "https://10.0.0.2:8443", "status": "Evacuated", "groups": None}
    server.will(answer([record]))
    (member,) = client.members()
    assert (member.name, member.status, member.groups) == ("c2", "Evacuated", ())


def test_volumes_are_listed_without_their_snapshots(client: LxdClient, server: ScriptedServer) -> None:
    """LXD lists both in one."""
    listed = [{"name": "data", "config": {"user.a": "1"}, "used_by": ["/1.0/instances/c1"]}, {"name": "data/monday"}]
    server.will(answer(["/1.0/storage-pools/fast"]), answer(listed))
    (volume,) = client.volumes(project="p2")
    assert (volume.pool, volume.project, volume.name) == ("fast", "p2", "data")
    assert (volume.own_config, volume.other_users("web")) == ({"user.a": "1"}, ("c1",))
    assert server.heard[1].path == "/1.0/storage-pools/fast/volumes/custom?project=p2&recursion=1"


def test_a_volume_is_changed_only_as_it_was_read_and_keeps_its_description(
    client: LxdClient, server: ScriptedServer
) -> None:
    seen = Volume(pool="fast", name="my data", description="mine", etag="abc")
    client.patch_volume(seen, {"user.a": ""})
    heard = server.heard[0]
    assert (heard.method, heard.path) == ("PATCH", "/1.0/storage-pools/fast/volumes/custom/my%20data?project=default")
    assert heard.body == {"config": {"user.a": ""}, "description": "mine"}
    assert heard.headers["If-Match"] == "abc"


def test_a_volume_is_backed_up_and_made_of_a_backup_under_another_name(
    client: LxdClient, server: ScriptedServer
) -> None:
    """Each product hears the name in its own header; the file comes in pieces."""
    volume = Volume(pool="fast", name="data", project="p2")
    server.will(BEGUN, after_file(BEGUN))
    assert client.back_volume_up(volume, "b", expires_at=NOW, volume_only=True, optimized=False) == "4f2"
    assert client.restore_volume("new", iter([b"ab", b"c"]), pool="fast", project="p2") == "4f2"
    made, restored = server.heard
    assert made.path == "/1.0/storage-pools/fast/volumes/custom/data/backups?project=p2"
    assert (made.body["volume_only"], made.body["optimized_storage"]) == (True, False)
    assert restored.path == "/1.0/storage-pools/fast/volumes/custom?project=p2"
    assert (restored.headers["X-LXD-name"], restored.headers["X-Incus-name"]) == ("new", "new")
    assert restored.body == b"abc"


def test_names_cannot_lead_to_another_path(client: LxdClient, server: ScriptedServer) -> None:
    client.delete_snapshot("c1", "../../c2?x")
    assert server.heard[0].path == "/1.0/instances/c1/snapshots/..%2F..%2Fc2%3Fx?project=default"


def test_a_forgotten_operation_is_none(client: LxdClient, server: ScriptedServer) -> None:
    server.will(GONE)
    assert client.operation("4f2") is None
    assert client.wait("4f2", timeout_seconds=1) is None


def test_waiting_ends_with_what_is_known_then(client: LxdClient, server: ScriptedServer) -> None:
    server.will(answer({"id": "4f2", "status_code": 103}))
    assert client.wait("4f2", timeout_seconds=7) == Operation(id="4f2", status_code=103)
    assert server.heard[0].path == "/1.0/operations/4f2/wait?timeout=7"


def test_cancelling_what_is_over_is_fine_and_what_cannot_be_cancelled_is_not(
    client: LxdClient, server: ScriptedServer
) -> None:
    server.will(GONE)
    client.cancel("4f2")
    server.will(refuse(400, "This operation can't be cancelled"))
    with pytest.raises(ServerRefused, match="can't be cancelled"):
        client.cancel("4f2")


def test_a_server_that_begins_no_operation_is_not_believed(client: LxdClient, server: ScriptedServer) -> None:
    server.will(answer({}))
    with pytest.raises(ServerRefused, match="did not begin an operation"):
        client.start("c1")


def test_instances_of_one_project_or_of_all(client: LxdClient, server: ScriptedServer) -> None:
    server.will(answer([]))
    client.instances("p2")
    client.instances(None)
    assert [request.path for request in server.heard] == [
        "/1.0/instances?project=p2&recursion=1",
        "/1.0/instances?all-projects=true&recursion=1",
    ]


def test_a_restricted_certificate_is_answered_project_by_project(client: LxdClient, server: ScriptedServer) -> None:
    """LXD refuses to list all projects to it."""
    server.will(refuse(403, "not authorized"), answer(["/1.0/projects/p2"]), answer([{"name": "c1", "project": "p2"}]))
    assert [(each.name, each.project) for each in client.instances(None)] == [("c1", "p2")]
    server.will(refuse(403, "not authorized"))
    with pytest.raises(NotTrusted):
        client.instances(None)


def test_a_pool_that_tells_nothing_of_its_space_is_still_listed(client: LxdClient, server: ScriptedServer) -> None:
    server.will(answer([{"name": "fast", "driver": "zfs"}]), refuse(403, "not authorized"))
    assert [(pool.name, pool.total) for pool in client.pools()] == [("fast", 0)]


def test_other_servers_may_reach_it_at_these_addresses(client: LxdClient, server: ScriptedServer) -> None:
    ours = server.address.removeprefix("https://")
    server.will(answer({"auth": "trusted", "environment": {"addresses": ["10.0.0.1:8443", ours]}}))
    assert client.addresses() == (server.address, "https://10.0.0.1:8443")


def test_a_server_known_by_its_socket_tells_its_addresses(socket_server: ScriptedServer) -> None:
    socket_server.will(answer({"environment": {"addresses": ["10.0.0.1:8443"]}}))
    assert LxdClient("local", socket_server.transport()).addresses() == ("https://10.0.0.1:8443",)


FAILED = {"id": "4f2", "status_code": 400, "err": "The instance is already running"}


@pytest.mark.parametrize(
    ("told", "status_code"), [("The instance is already running", 400), ("context deadline exceeded", 103)]
)
def test_a_wait_that_incus_answers_by_an_error_alone_asks_how_the_operation_stands(
    client: LxdClient, server: ScriptedServer, told: str, status_code: int
) -> None:
    """The second error only means that the time is up; nobody waits for it three times."""
    late = answer(None, type="error", error=told, error_code=500)
    server.will(late, answer({**FAILED, "status_code": status_code}))
    seen = client.wait("4f2", timeout_seconds=1)
    assert seen is not None
    assert (seen.is_finished, seen.error) == (status_code == 400, "The instance is already running")
    assert [heard.path.split("?")[0] for heard in server.heard] == [
        "/1.0/operations/4f2/wait",
        "/1.0/operations/4f2",
    ]


def test_what_a_server_would_refuse_is_found_by_a_profile_that_it_never_makes(
    client: LxdClient, server: ScriptedServer
) -> None:
    there = refuse(500, 'Error inserting "default" into database: The profile already exists')
    server.will(there, refuse(400, "Unknown configuration key: foo"), refuse(403, "not authorized"))
    asked = [("limits.cpu", "2"), ("foo", "1"), ("security.nesting", "true")]
    assert client.refused_config(asked) == {("foo", "1"): "Unknown configuration key: foo"}
    assert [heard.path for heard in server.heard] == ["/1.0/profiles"] * 3
    assert server.heard[1].body == {"name": "default", "config": {"foo": "1"}}
