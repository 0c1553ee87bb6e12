"""Plans of exports and imports: one decision for each instance, and all refusals at once."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.domain.archive import Format, Manifest, generation_in, generations_prefix
from common.domain.errors import InputError
from common.domain.fleet import Pool, Room
from common.domain.generation import Generation, stamp
from common.domain.plan import Compression, Finding, Method, Overrides, Plan, Policy, Selection
from producer.archiving import check_format, plan_export, plan_import, restore_requests
from tests.builders import GIB, NOW, VOLUME_DISK, a_fleet, a_manifest, a_request, a_server, an_instance, an_order

ROOM = Room(place="pool default", free=10 * GIB)


def exported(*instances: Any, room: Room | None = ROOM, used: int = GIB, **request: Any) -> Plan:
    """The plan to export these; each has one snapshot."""
    wanted = a_request(targets=(), archive="/shelf", **({"policy": Policy(method=Method.EXPORT)} | request))
    needs = {(i.project, i.name): (used, 1) for i in instances}
    return plan_export(wanted, instances, a_fleet(a_server("s1", *instances)), room, needs, plan_id="p1")


def imported(*manifests: Any, target: Any = None, room: Room | None = None, **request: Any) -> Plan:
    """The plan to import these onto s2."""
    defaults: Mapping[str, Any] = {
        "targets": ("s2",), "archive": "/shelf", "policy": Policy(method=Method.IMPORT)
    }  # fmt: skip
    fleet = a_fleet(target or a_server("s2"))
    return plan_import(a_request(**{**defaults, **request}), manifests, fleet, room, plan_id="p1")


def refusals(plan: Plan) -> list[Finding]:
    return [finding for refusal in plan.refusals for finding in refusal.findings]


def test_an_export_goes_from_the_server_into_a_file_of_the_archive() -> None:
    """It needs its source alone."""
    (move,) = exported(an_instance("web1")).moves
    assert (move.source, move.target, move.archive, move.servers) == ("s1", "/shelf", "/shelf", ("s1",))
    assert (move.file, move.method, move.identity) == ("web1-20250601T010000Z.tar", Method.EXPORT, "uuid-of-web1")


@pytest.mark.parametrize(
    ("free", "options", "is_refused"),
    [
        (3 * GIB, {}, False),
        (2 * GIB, {}, True),
        (2 * GIB, {"policy": Policy(method=Method.EXPORT, optimized=True)}, False),
        (2 * GIB, {"overrides": Overrides(instance_only=True)}, False),
        (GIB, {"overrides": Overrides(instance_only=True)}, True),
    ],
)
def test_a_server_must_have_room_for_the_backup(free: int, options: dict[str, Any], *, is_refused: bool) -> None:
    """With each snapshot in full unless it is optimized or goes without, and some more."""
    plan = exported(an_instance(), room=Room(place="pool backups", free=free), **options)
    assert bool(plan.refusals) is is_refused
    if is_refused:
        (finding,) = refusals(plan)
        assert finding.code == "space"
        assert "in pool backups" in finding.message


def test_a_server_that_does_not_tell_its_room_is_warned_of() -> None:
    """It stops with an error by itself."""
    plan = exported(an_instance(), room=None)
    assert len(plan.moves) == 1
    assert "s1 does not tell how much room it has" in plan.warnings[0]


def test_two_instances_never_get_the_same_file() -> None:
    """a-b in project default, and b in project a."""
    plan = exported(an_instance("a-b"), an_instance("b", project="a"))
    assert [move.instance for move in plan.moves] == ["a-b"]
    assert [finding.code for finding in refusals(plan)] == ["name_taken"]


def test_an_import_goes_from_the_archive_onto_a_server() -> None:
    """The checksum is what tells the planned export from another of its name."""
    (move,) = imported(a_manifest()).moves
    assert (move.source, move.target, move.archive, move.servers) == ("/shelf", "s2", "/shelf", ("s2",))
    assert (move.name, move.pool, move.identity) == ("web1", "default", a_manifest().sha256)


@pytest.mark.parametrize(
    ("manifest", "target", "request_", "code"),
    [
        ({}, {"instances": (an_instance("web1"),)}, {}, "name_taken"),
        ({}, {}, {"overrides": Overrides(storage="none")}, "pool"),
        ({}, {}, {"target_project": "none"}, "project"),
        ({"architecture": "riscv64"}, {}, {}, "architecture"),
        ({"profiles": ("none",)}, {}, {}, "profile"),
        ({"devices": {"eth0": {"type": "nic", "network": "none"}}}, {}, {}, "network"),
        ({"format": Format(optimized=True, driver="zfs")}, {}, {}, "optimized"),
        ({"size": 2000 * GIB}, {}, {}, "space"),
    ],
)
def test_an_import_that_cannot_be_is_refused_in_the_plan(
    manifest: dict[str, Any], target: dict[str, Any], request_: dict[str, Any], code: str
) -> None:
    """Before a byte is sent."""
    known = target.pop("instances", ())
    plan = imported(replace(a_manifest(), **manifest), target=a_server("s2", *known), **request_)
    assert plan.moves == ()
    assert code in {finding.code for finding in refusals(plan)}


def test_a_device_that_is_bound_to_a_host_is_only_warned_of() -> None:
    """The backup may come home."""
    plan = imported(replace(a_manifest(), devices={"gpu": {"type": "gpu"}}))
    assert len(plan.moves) == 1
    assert any("device gpu" in warning for warning in plan.warnings)


def test_a_pool_of_the_same_driver_takes_an_optimized_export() -> None:
    """Whatever its name."""
    target = a_server("s2", pools={"default": Pool(name="default", driver="btrfs", total=100 * GIB)})
    assert imported(replace(a_manifest(), format=Format(optimized=True, driver="btrfs")), target=target).moves


def test_a_new_name_needs_exactly_one_export() -> None:
    """And then it is the instance's."""
    (move,) = imported(a_manifest(), rename="new").moves
    assert move.name == "new"
    with pytest.raises(InputError, match="a new name needs exactly one export; 2 are selected"):
        imported(a_manifest(), a_manifest("db1"), rename="new")


def test_two_exports_never_become_the_same_instance() -> None:
    """Of two projects that go into one."""
    plan = imported(a_manifest(), replace(a_manifest(), project="shop"), target_project="default")
    assert len(plan.moves) == 1
    assert [finding.code for finding in refusals(plan)] == ["name_taken"]


def test_what_no_server_takes_back_is_never_made() -> None:
    """LXD 5.0.2 never ends the import of an optimized backup in zstd."""
    with pytest.raises(InputError, match="exclude each other"):
        check_format(Policy(optimized=True, compression=Compression.ZSTD))
    check_format(Policy(optimized=True, compression=Compression.GZIP))


def test_a_run_makes_a_generation_whose_name_tells_policy_instance_and_moment() -> None:
    """Of two instances of one name, in two projects, each has its own."""
    policy = Policy(method=Method.ARCHIVE, compression=Compression.GZIP)
    instances = [an_instance("web1"), an_instance("web1", project="shop")]
    every = Selection(source="s1", all_projects=True)
    moves = exported(*instances, policy=policy, backup=an_order(), select=every).moves
    assert {move.method for move in moves} == {Method.ARCHIVE}
    assert all(move.file.startswith("nightly-web1-") for move in moves)
    assert all(move.file.endswith(f"-{stamp(NOW)}.tar.gz") for move in moves)
    assert len({move.file for move in moves}) == 2
    for move in moves:
        assert move.file.startswith(generations_prefix(an_order(at=NOW - timedelta(days=9)), move.origin))


def test_generations_are_restored_to_where_they_were_or_where_one_wants() -> None:
    """With new addresses, as the original may be there still, unless they shall stay."""
    addresses = {"volatile.eth0.hwaddr": "00:16:3e:00:00:01", "volatile.uuid": "u"}
    there = [_kept("web1", config=addresses), _kept("web2"), _kept("db1", source="s3")]
    wanted = a_request(targets=(), policy=Policy(method=Method.IMPORT), overrides=Overrides(config={"user.a": "b"}))
    found = restore_requests(there, wanted, keeps_addresses=False)
    assert [(r.targets, r.archive, [m.instance for m in group]) for r, group in found] == [
        (("s1",), "/shelf", ["web1", "web2"]),
        (("s3",), "/shelf", ["db1"]),
    ]
    assert found[0][0].overrides_of("web1").config == {"user.a": "b", "volatile.eth0.hwaddr": ""}
    ((kept, _),) = restore_requests(there, replace(wanted, targets=("s2",)), keeps_addresses=True)
    assert (kept.targets, kept.overrides_of("web1").config) == (("s2",), {"user.a": "b"})


def _kept(instance: str, **changes: Any) -> tuple[Generation, Manifest]:
    manifest = a_manifest(instance, policy="nightly", at=NOW, **changes)
    generation = generation_in("/shelf", manifest)
    assert generation
    return generation, manifest


def test_an_export_is_a_generation_if_a_run_has_made_it() -> None:
    """By what its manifest says alone."""
    assert generation_in("/shelf", a_manifest()) is None
    generation, manifest = _kept("web1", project="shop")
    assert (generation.source, generation.instance, generation.target) == ("s1:shop/web1", "web1", "/shelf")
    assert (generation.at, generation.place) == (NOW, f"/shelf/{manifest.file}")


def test_volumes_that_are_not_in_a_generation_are_warned_of() -> None:
    """Of an export everybody knows that it is the instance alone."""
    instance = an_instance("web1", devices={"data": VOLUME_DISK})
    assert exported(instance).warnings == ()
    (warning,) = exported(instance, policy=Policy(method=Method.ARCHIVE), backup=an_order()).warnings
    assert "not backed up with it" in warning
