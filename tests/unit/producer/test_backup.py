"""What a policy's run asks for, and what of it is decided for each instance."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from common.archive.directory import Directory
from common.domain.backup import BackupPolicy, BackupTarget, Schedule
from common.domain.errors import InputError
from common.domain.fleet import Pool
from common.domain.instance import Instance
from common.domain.plan import Method, Plan, Policy, Selection
from common.domain.volume import AttachedVolume, Volume
from producer.backup import archived, check_archives, plan_id, request_for
from producer.debris.finding import find_debris
from producer.debris.scene import Kind
from producer.planner import make_plan, select
from producer.submit import ID_ALPHABET
from tests.builders import (
    NIC,
    NOW,
    VOLUME_DISK,
    a_fleet,
    a_generation,
    a_manifest,
    a_request,
    a_server,
    a_server_info,
    a_volume,
    an_instance,
    an_order,
    volumes_by_key,
)
from tests.unit.producer.test_debris import a_scene

TARGET = BackupTarget(remote="s2")
STAGING = an_order().staging_of("s1:default/web1")


def a_policy(**changes: object) -> BackupPolicy:
    defaults: dict[str, object] = {
        "name": "nightly",
        "select": Selection(source="s1"),
        "schedule": Schedule(when="daily"),
        "targets": (TARGET,),
    }
    return BackupPolicy(**(defaults | changes))  # type: ignore[arg-type]


def planned(*instances: Instance, there: Sequence[Instance] = (), **target: object) -> Plan:
    """The plan of a run onto s2."""
    fleet = a_fleet(a_server("s1", *instances), a_server("s2", *there, **target))
    return make_plan(request_for(a_policy(), TARGET, NOW), fleet, plan_id="p1")


def test_the_plan_of_a_run_has_the_same_id_whenever_it_is_asked_for() -> None:
    """So that a run that is submitted twice is made once; every other run has another one."""
    ids = [plan_id("nightly", NOW, "s2"), plan_id("nightly", NOW, "d1"), plan_id("weekly", NOW, "s2")]
    ids.append(plan_id("nightly", NOW + timedelta(days=1), "s2"))
    assert ids[0] == plan_id("nightly", NOW, "s2")
    assert len(set(ids)) == 4
    assert all(len(each) == 10 and set(each) <= set(ID_ALPHABET) for each in ids)


def test_an_instance_goes_to_its_staging_copy_without_anything_that_it_shares_with_its_server() -> None:
    """Neither the profiles nor the networks of its profiles have to be on the target."""
    plan = planned(an_instance(profiles=("default", "web")), networks={"default": frozenset()})
    (move,) = plan.moves
    assert (move.method, move.name, move.volumes) == (Method.BACKUP, STAGING, ())
    assert plan.refusals == ()


def test_a_staging_copy_that_is_there_is_no_obstacle_and_anything_else_of_its_name_is() -> None:
    """The run refreshes what an earlier one has left, whoever holds it."""
    assert planned(an_instance(), there=[a_generation(name=STAGING, state="staging")]).refusals == ()
    (refusal,) = planned(an_instance(), there=[an_instance(STAGING)]).refusals
    assert [finding.code for finding in refusal.findings] == ["name_taken"]


def test_a_network_of_its_own_that_the_target_lacks_is_refused_with_what_mends_it() -> None:
    """LXD does not receive snapshots of such an instance."""
    (refusal,) = planned(an_instance(devices={"eth1": {**NIC, "network": "back"}})).refusals
    assert "lxc network create s2:back" in refusal.findings[0].hint


def with_volume(
    volume: Volume, *, target: BackupTarget = TARGET, policy: BackupPolicy | None = None, product: str = "lxd"
) -> Plan:
    """The plan of a run for an instance that attaches this one."""
    source = a_server("s1", an_instance(devices={"data": VOLUME_DISK}), volumes=volumes_by_key(volume))
    pools = {name: Pool(name=name, driver="btrfs") for name in ("default", "slow")}
    there = a_server("s2", pools=pools, info=a_server_info("s2", product=product))
    return make_plan(request_for(policy or a_policy(), target, NOW), a_fleet(source, there), plan_id="p1")


def test_the_volumes_of_an_instance_are_backed_up_with_it() -> None:
    """Into the pool that the target's generations are in; a policy can leave them out."""
    (move,) = with_volume(a_volume()).moves
    assert move.volumes == (AttachedVolume(pool="default", name="data", target_pool="default"),)
    (slow,) = with_volume(a_volume(), target=BackupTarget(remote="s2", storage="slow")).moves
    assert [each.target_pool for each in slow.volumes] == ["slow"]
    without = with_volume(a_volume(), policy=a_policy(volumes=False))
    assert (without.moves[0].volumes, without.warnings) == ((), ())


@pytest.mark.parametrize(
    "volume",
    [a_volume(content_type="block"), a_volume(used_by=("/1.0/instances/web1", "/1.0/instances/web2"))],
    ids=["of blocks", "shared"],
)
def test_volumes_that_are_not_backed_up_are_warned_of(volume: Volume) -> None:
    """Nobody finds that out when they need them."""
    plan = with_volume(volume)
    assert plan.moves[0].volumes == ()
    (warning,) = plan.warnings
    assert "default/data are not backed up" in warning
    assert "nobody else attaches" in warning


def test_volumes_that_the_servers_cannot_send_are_warned_of_with_the_reason() -> None:
    plan = with_volume(a_volume(), product="incus")
    assert plan.moves[0].volumes == ()
    (warning,) = [each for each in plan.warnings if "default/data are not backed up" in each]
    assert "Incus 5.0.2 crashes" in warning


def test_what_is_backed_up_while_a_dir_pool_freezes_it_is_not_refused() -> None:
    """Another target of the same run may be receiving it."""
    assert planned(an_instance(status="Frozen")).refusals == ()


def test_backups_are_left_out_when_all_instances_are_meant() -> None:
    """Of a backup server that is evacuated or backed up itself; by name one can still be copied."""
    instances = [an_instance(), a_generation(), a_generation(name="staging", state="staging")]
    assert [each.name for each in select(instances, Selection(source="s1"))] == ["web1"]
    named = Selection(source="s1", instances=(instances[1].name,))
    assert [each.name for each in select(instances, named)] == [instances[1].name]


def test_neither_generations_nor_staging_copies_are_debris() -> None:
    """They are guarded and nobody's, as broken copies are; also while the job of a lost Redis had one."""
    marks = {"user.herder.job": "p9-1", "user.herder.state": "receiving", "user.herder.role": "target"}
    backups = [a_generation(), a_generation(name="staging", state="staging", marks=marks)]
    assert find_debris(a_scene(a_server("s2", *backups)), stuck_after=timedelta(hours=1)) == []


def test_a_generation_that_a_dead_job_has_not_finished_is_debris_and_its_neighbours_are_not() -> None:
    """It is guarded, nobody's, and counts for nothing."""
    marks = {"user.herder.job": "p9-1", "user.herder.role": "generation"}
    unfinished = a_generation(name="unfinished", state="making", marks=marks)
    (piece,) = find_debris(a_scene(a_server("s2", a_generation(), unfinished)), stuck_after=timedelta(hours=1))
    assert (piece.subject, piece.kind) == ("unfinished", Kind.HALF)


@pytest.mark.parametrize("method", [None, Method.COPY])
def test_a_generation_is_neither_moved_nor_copied_as_if_it_were_an_instance(method: Method | None) -> None:
    """On the other side it would have no guard any more, and count as a backup whatever it does there."""
    generation = a_generation()
    request = a_request(generation.name, policy=Policy(method=method))
    plan = make_plan(request, a_fleet(a_server("s1", generation), a_server("s2")), plan_id="p1")
    (refusal,) = plan.refusals
    assert "herder backup restore" in refusal.findings[0].hint


def test_of_an_archive_only_what_is_whole_is_a_generation(tmp_path: Path) -> None:
    """Not an export, not a file without manifest, nor one that was cut."""
    archive = Directory(tmp_path)
    of_a_run: dict[str, Any] = {"policy": "nightly", "at": NOW, "size": 3}
    kinds: dict[str, dict[str, Any]] = {
        "good": of_a_run,
        "cut": {**of_a_run, "size": 9},
        "gone": of_a_run,
        "export": {"size": 3},
    }
    for name, changes in kinds.items():
        manifest = a_manifest(file=f"{name}.tar", **changes)
        archive.write_manifest(manifest)
        if name != "gone":
            (tmp_path / manifest.file).write_bytes(b"abc")
    (tmp_path / "unfinished.tar").write_bytes(b"abc")
    assert [each.name for each in archived(str(tmp_path))] == ["good.tar"]


def test_an_archive_that_cannot_be_written_to_is_told_with_its_place(tmp_path: Path) -> None:
    """Before any server is asked."""
    target = BackupTarget(archive=str(tmp_path / "none"), written="policies.yaml:7:9")
    with pytest.raises(InputError, match=r"policies\.yaml:7:9: .*none is not a directory"):
        check_archives(a_policy(targets=(BackupTarget(archive=str(tmp_path)), target)))
    assert list(tmp_path.iterdir()) == []
