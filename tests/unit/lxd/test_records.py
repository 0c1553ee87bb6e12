"""What the server's JSON means."""

from datetime import UTC, datetime

from common.domain.fleet import Pool, Processor, Profile, ServerInfo
from common.domain.instance import Instance, Snapshot
from common.domain.operation import Operation
from common.lxd import records


def test_an_instance_is_read_whole() -> None:
    record = {
        "name": "c1",
        "project": "p2",
        "type": "container",
        "status": "Running",
        "architecture": "x86_64",
        "description": "web",
        "ephemeral": True,
        "stateful": False,
        "profiles": ["default", "web"],
        "config": {"boot.autostart": "true"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "fast"}},
        "expanded_config": {"boot.autostart": "true", "limits.cpu": "2"},
        "expanded_devices": {"root": {"type": "disk", "path": "/", "pool": "fast"}},
        "location": "c2",
        "created_at": "2026-11-22T20:51:40.438794123Z",
        "last_used_at": "1970-01-01T00:00:00Z",
        "snapshots": None,
    }
    assert records.instance(record, etag="abc") == Instance(
        name="c1",
        project="p2",
        status="Running",
        description="web",
        ephemeral=True,
        profiles=("default", "web"),
        config={"boot.autostart": "true"},
        devices={"root": {"type": "disk", "path": "/", "pool": "fast"}},
        expanded_config={"boot.autostart": "true", "limits.cpu": "2"},
        expanded_devices={"root": {"type": "disk", "path": "/", "pool": "fast"}},
        location="c2",
        created_at=datetime(2026, 11, 22, 20, 51, 40, 438794, tzinfo=UTC),
        etag="abc",
    )


def test_an_instance_of_a_member_that_is_down_has_empty_facts() -> None:
    """LXD lists it with status Error and null for whatever only the member knows."""
    nulls = dict.fromkeys(
        [
            "architecture",
            "config",
            "devices",
            "ephemeral",
            "expanded_config",
            "expanded_devices",
            "profiles",
            "created_at",
            "last_used_at",
            "description",
            "stateful",
            "snapshots",
        ]
    )
    read = records.instance({"name": "c1", "status": "Error", "location": "c3", "type": "container", **nulls})
    assert (read.status, read.location, read.config, read.devices, read.profiles) == ("Error", "c3", {}, {}, ())
    assert read.created_at.year == 1970


def test_a_server_that_stands_alone_has_no_location() -> None:
    assert records.instance({"name": "c1", "location": "none"}).location == ""


def test_snapshots_that_were_asked_for_are_kept() -> None:
    read = records.instance({"name": "c1", "snapshots": [{"name": "s0", "created_at": "2026-11-22T20:51:40Z"}]})
    assert read.snapshots == (Snapshot(name="s0", created_at=datetime(2026, 11, 22, 20, 51, 40, tzinfo=UTC)),)


def test_a_snapshots_name_is_without_its_instances() -> None:
    assert records.snapshot({"name": "c1/s0", "created_at": None, "stateful": True}).name == "s0"


def test_writing_an_instance_back_keeps_what_is_not_changed() -> None:
    before = Instance(name="c1", description="web", ephemeral=True, profiles=("web",), config={"a": "1"})
    assert records.changeable(before, config={"a": "2"}, devices={}) == {
        "architecture": "x86_64",
        "description": "web",
        "ephemeral": True,
        "stateful": False,
        "profiles": ["web"],
        "config": {"a": "2"},
        "devices": {},
    }


def test_a_server_tells_who_it_is() -> None:
    read = records.server_info(
        {
            "auth": "trusted",
            "api_extensions": ["etag", "patch"],
            "environment": {
                "server": "incus",
                "server_name": "s1",
                "server_version": "6.0.4",
                "server_pid": 42,
                "server_clustered": True,
                "architectures": ["x86_64", "i686"],
                "addresses": ["10.0.0.1:8443"],
                "certificate": "PEM",
                "driver": "qemu | lxc",
                "driver_version": "7.2.22 | 5.0.2",
            },
        }
    )
    assert read == ServerInfo(
        name="s1",
        product="incus",
        version="6.0.4",
        pid=42,
        trusted=True,
        extensions=frozenset({"etag", "patch"}),
        architectures=("x86_64", "i686"),
        addresses=("10.0.0.1:8443",),
        certificate="PEM",
        qemu="7.2.22",
        clustered=True,
    )


def test_a_server_tells_a_stranger_nearly_nothing() -> None:
    read = records.server_info({"auth": "untrusted", "api_extensions": ["etag"]})
    assert (read.trusted, read.extensions, read.name, read.pid) == (False, frozenset({"etag"}), "", 0)


def test_a_server_without_qemu_runs_no_virtual_machines() -> None:
    read = records.server_info({"environment": {"driver": "lxc", "driver_version": "5.0.2"}})
    assert read.qemu == ""


def test_only_networks_of_ovn_reach_beyond_their_server() -> None:
    listing = [{"name": "lxdbr0", "type": "bridge"}, {"name": "east", "type": "ovn"}, {"name": "eth0"}]
    assert records.ovn_networks(listing) == {"east"}


def test_a_processor_has_the_flags_that_all_its_cores_have() -> None:
    """LXD 5.0.2 tells none; a model is told by all."""
    socket = {"vendor": "AuthenticAMD", "name": "AMD EPYC"}
    assert records.processor({"cpu": {"sockets": [{**socket, "cores": [{"core": 0}]}]}}) == Processor(
        model="AuthenticAMD AMD EPYC"
    )
    cores = [{"flags": ["sse", "avx"]}, {"flags": ["sse"]}]
    assert records.processor({"cpu": {"sockets": [{**socket, "cores": cores}]}}).flags == {"sse"}
    assert records.processor({}) == Processor(model="")


def test_a_pool_whose_space_is_not_told_has_none() -> None:
    record = {"name": "fast", "driver": "btrfs", "config": None}
    assert records.pool(record, {}) == Pool(name="fast", driver="btrfs")
    assert records.pool(record, {"space": {"used": 3, "total": 10}, "inodes": {}}).free == 7


def test_a_profile_is_read_whole() -> None:
    read = records.profile({"name": "web", "config": None, "devices": {"eth0": {"type": "nic"}}})
    assert read == Profile(name="web", devices={"eth0": {"type": "nic"}})


def test_an_operation_keeps_paths_without_their_project() -> None:
    read = records.operation(
        {
            "id": "4f2",
            "status_code": 400,
            "description": "Migrating instance",
            "err": "broken",
            "may_cancel": True,
            "resources": {"instances": ["/1.0/instances/c1?project=p2"]},
            "metadata": {"fs": "secret"},
            "created_at": "2025-06-01T01:00:00Z",
        }
    )
    assert read == Operation(
        id="4f2",
        status_code=400,
        description="Migrating instance",
        error="broken",
        may_cancel=True,
        resources={"instances": ("/1.0/instances/c1",)},
        metadata={"fs": "secret"},
        created_at=datetime(2025, 6, 1, 1, tzinfo=UTC),
    )
    assert "secret" not in repr(read)


def test_a_listing_of_operations_is_read_whatever_their_status() -> None:
    listing = {"running": [{"id": "1", "status_code": 103}], "success": [{"id": "2", "status_code": 200}]}
    assert [operation.id for operation in records.operations(listing)] == ["1", "2"]


def test_names_are_taken_from_urls() -> None:
    urls = ["/1.0/networks/br0", "/1.0/storage-pools/p/volumes/custom/my%20data?project=p2"]
    assert records.names(urls) == {"br0", "my data"}
