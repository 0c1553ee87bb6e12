"""Custom volumes that are attached: which go along, what keeps them and their instance, and which step does what."""

from dataclasses import replace
from typing import Any

import pytest

from common.domain.eligibility import POOL_RESERVE, VOLUME_EXTENSIONS, attached_volumes, findings
from common.domain.fleet import Pool, Server
from common.domain.instance import Instance
from common.domain.itinerary import (
    COLD,
    COPY,
    RESUME_AT_WITH_VOLUMES,
    WARM,
    WITH_VOLUMES,
    WITHIN_CLUSTER,
    Itinerary,
    forward_of,
)
from common.domain.plan import Finding, Method, Move, NameMap, Overrides
from common.domain.recovery import Traces, continued
from common.domain.volume import AttachedVolume
from common.domain.volume_ways import VOLUME_BACKUP_EXTENSIONS, why_as_backup
from tests.builders import (
    GIB,
    VOLUME_DISK,
    a_job,
    a_move,
    a_move_within_cluster,
    a_server,
    a_server_info,
    a_volume,
    an_instance,
    volumes_by_key,
)

DATA = AttachedVolume(pool="default", name="data", target_pool="default")
INCUS = a_server_info("s2", product="incus", version="6.0.4")
LOGS = {**VOLUME_DISK, "source": "logs", "path": "/logs"}


def with_data(**devices: dict[str, str]) -> Instance:
    """``web1``, which attaches ``data`` and what is told."""
    return an_instance(devices={"data": VOLUME_DISK, **devices})


def a_source(**changes: Any) -> Server:
    """``s1``, with the volume ``data``, of which something may differ."""
    return a_server("s1", volumes=volumes_by_key(a_volume(**changes)))


def all_findings(
    *,
    instance: Instance | None = None,
    move: Move | None = None,
    source: Server | None = None,
    target: Server | None = None,
    own_job: str = "",
) -> tuple[Finding, ...]:
    """About ``web1`` with its volume, on its way from ``s1`` to ``s2``."""
    servers = (source or a_source(), target or a_server("s2"))
    return findings(instance or with_data(), move or a_move(), *servers, own_job=own_job)


def test_a_volume_goes_along_where_nothing_keeps_it() -> None:
    """The target needs none of that name."""
    assert all_findings() == ()


@pytest.mark.parametrize("method", list(WITH_VOLUMES))
def test_volumes_that_the_instance_itself_attaches_go_along(method: Method) -> None:
    """Those of profiles and the root disk do not; a volume that two devices attach goes once."""
    instance = with_data(again={**VOLUME_DISK, "path": "/again"}, logs=LOGS)
    inherited = replace(
        instance, expanded_devices={**instance.expanded_devices, "shared": {**LOGS, "source": "shared"}}
    )
    found = attached_volumes(inherited, a_move(method=method))
    assert [str(each) for each in found] == ["default/data", "default/logs"]


@pytest.mark.parametrize("override", [{"type": "none"}, {"source": "other"}], ids=["masked", "replaced"])
def test_a_volume_that_the_copy_shall_not_have_stays(override: dict[str, str]) -> None:
    move = a_move(overrides=Overrides(devices={"data": override}))
    assert attached_volumes(with_data(), move) == ()


def test_a_volume_goes_to_the_pool_that_its_own_is_mapped_to() -> None:
    """It keeps its name."""
    (found,) = attached_volumes(with_data(), a_move(overrides=Overrides(map=NameMap(pools={"default": "fast"}))))
    assert found == replace(DATA, target_pool="fast")


THERE = volumes_by_key(a_volume(used_by=()))
OBSTACLES = [
    (
        "the source has lost it",
        {"source": a_server("s1")},
        ("volume", "s1 has no custom volume default/data", "make the plan again"),
    ),
    (
        "another instance attaches it",
        {"source": a_source(used_by=("/1.0/instances/web1", "/1.0/instances/web2"))},
        ("shared_volume", "custom volume default/data is also attached by web2", "detach it from the others first"),
    ),
    (
        "a profile attaches it",
        {"source": a_source(used_by=("/1.0/instances/web1", "/1.0/profiles/my%20ssd?project=default"))},
        ("shared_volume", "also attached by profile my ssd", "--device NAME,type=none"),
    ),
    (
        "one of the same name in another project attaches it",
        {"source": a_source(used_by=("/1.0/instances/web1", "/1.0/instances/web1?project=shop"))},
        ("shared_volume", "also attached by web1 of project shop", "detach it"),
    ),
    (
        "it holds blocks",
        {"source": a_source(content_type="block")},
        ("volume", "custom volume default/data is a block one", "--device NAME,type=none"),
    ),
    (
        "a job that has not ended has it",
        {"source": a_source(config={"user.herder.job": "p9-1", "user.herder.state": "moving"})},
        ("claimed", "custom volume default/data belongs to job p9-1", "`herder cancel p9-1`"),
    ),
    (
        "the target has one of its name",
        {"target": a_server("s2", volumes=THERE)},
        ("volume_taken", "s2 has a custom volume default/data already", "--device NAME,source=data"),
    ),
    (
        "the target has the one that an earlier move left behind",
        {
            "target": a_server(
                "s2",
                volumes=volumes_by_key(a_volume(config={"user.herder.job": "p0-1", "user.herder.state": "retired"})),
            )
        },
        ("volume_taken", "already, the retired one of job p0-1", "rename or delete it there"),
    ),
    (
        "the target lacks an extension",
        {"target": a_server("s2", info=a_server_info("s2", extensions=a_server_info().extensions - VOLUME_EXTENSIONS))},
        ("extension", "custom_volume_refresh, storage_api_remote_volume_handling", "upgrade both servers"),
    ),
    (
        "it would have to go as a backup, and the target takes none",
        {
            "target": a_server(
                "s2", info=replace(INCUS, extensions=INCUS.extensions - VOLUME_BACKUP_EXTENSIONS, version="6.0.4")
            )
        },
        ("extension", "volumes need the API extensions custom_volume_backup", "upgrade both servers"),
    ),
]


@pytest.mark.parametrize(("world", "expected"), [case[1:] for case in OBSTACLES], ids=[case[0] for case in OBSTACLES])
def test_what_keeps_a_volume_keeps_its_instance(world: dict[str, Any], expected: tuple[str, str, str]) -> None:
    """By one refusal, which says what to do."""
    code, message, hint = expected
    (finding,) = all_findings(**world)
    assert (finding.code, finding.is_refusal) == (code, True)
    assert message in finding.message
    assert hint in finding.hint


def test_volumes_that_would_crash_their_target_go_as_backups_and_the_plan_says_why() -> None:
    """That is no refusal."""
    (finding,) = all_findings(target=a_server("s2", info=INCUS))
    assert (finding.code, finding.is_refusal) == ("volume_as_backup", False)
    assert finding.message == (
        "its custom volumes default/data go as backups, carried by a worker: "
        "Incus 6.0.4 crashes when LXD sends it a custom volume"
    )
    assert "s1 and s2 have room" in finding.hint


@pytest.mark.parametrize(
    ("source", "target", "version", "crashes"),
    [
        ("lxd", "incus", "6.0.4", True),
        ("lxd", "incus", "6.0", True),
        ("lxd", "incus", "6.0.5", False),
        ("lxd", "incus", "6.0.10", False),
        ("lxd", "incus", "6.1", True),
        ("lxd", "incus", "6.12.1", True),
        ("lxd", "incus", "6.13", False),
        ("lxd", "incus", "7.3", False),
        ("lxd", "incus", "", True),
        ("lxd", "incus", "unknown", True),
        ("incus", "incus", "6.0.4", False),
        ("incus", "lxd", "5.0.2", False),
        ("lxd", "lxd", "5.0.2", False),
    ],
)
def test_only_versions_that_crash_are_spared_a_volume(source: str, target: str, version: str, crashes: bool) -> None:
    """And those that do not say which they are."""
    servers = a_server_info("s1", product=source), a_server_info("s2", product=target, version=version)
    assert bool(why_as_backup(*servers)) is crashes


@pytest.mark.parametrize("product", ["lxd", "incus"])
def test_an_incus_that_is_the_source_is_fine(product: str) -> None:
    source = replace(a_source(), info=a_server_info("s1", product="incus"))
    assert all_findings(source=source, target=a_server("s2", info=a_server_info("s2", product=product))) == ()


@pytest.mark.parametrize("side", ["source", "target"])
def test_what_the_job_itself_has_made_is_no_obstacle(side: str) -> None:
    """Preflight asks again when the job goes on."""
    own = {"user.herder.job": "p1-1", "user.herder.state": "moving"}
    world: dict[str, Any] = (
        {"source": a_source(config=own)}
        if side == "source"
        else {"target": a_server("s2", volumes=volumes_by_key(a_volume(config=own)))}
    )
    assert all_findings(**world, own_job="p1-1") == ()
    assert [each.code for each in all_findings(**world, own_job="p2-1")] == [
        "claimed" if side == "source" else "volume_taken"
    ]


def test_a_retired_volume_that_a_person_uses_again_can_go() -> None:
    """As a retired instance can."""
    retired = {"user.herder.job": "p0-1", "user.herder.state": "retired"}
    assert all_findings(source=a_source(config=retired)) == ()


@pytest.mark.parametrize(
    ("pools", "code"),
    [({}, "pool"), ({"fast": Pool(name="fast", driver="dir", total=GIB, used=GIB - POOL_RESERVE + 1)}, "space")],
    ids=["missing", "full"],
)
def test_a_volume_needs_room_in_a_pool_of_its_own(pools: dict[str, Pool], code: str) -> None:
    """Its pool may be another one than that of the root disk."""
    source = a_server("s1", volumes=volumes_by_key(a_volume(pool="fast")))
    target = a_server("s2", pools={**a_server().pools, **pools})
    found = all_findings(
        instance=an_instance(devices={"data": {**VOLUME_DISK, "pool": "fast"}}), source=source, target=target
    )
    assert {each.code for each in found} == {code}
    assert "fast" in found[0].message


def test_two_volumes_cannot_become_one() -> None:
    """They have one name in two pools, which are mapped to one."""
    source = a_server("s1", volumes=volumes_by_key(a_volume(), a_volume(pool="fast")))
    instance = with_data(fast={**VOLUME_DISK, "pool": "fast", "path": "/fast"})
    move = a_move(overrides=Overrides(map=NameMap(pools={"fast": "default"})))
    found = all_findings(instance=instance, source=source, move=move)
    assert {each.code for each in found} == {"volume_taken"}
    assert "would both be default/data" in found[0].message


def test_within_a_cluster_volumes_stay_on_their_member() -> None:
    """No such move is made with one that is there only."""
    move = a_move_within_cluster()
    assert WITHIN_CLUSTER[Method.WARM] is forward_of(move)
    assert not move.volumes


WAYS = [
    (Method.WARM, WARM, {"reserve_volumes": "full_pass", "final_volumes": "final_pass"}),
    (Method.COLD, COLD, {"final_volumes": "full_pass"}),
    (Method.COPY, COPY, {"copy_volumes": "full_pass"}),
]


@pytest.mark.parametrize(("method", "plain", "before"), WAYS)
def test_volumes_are_there_before_what_attaches_them(method: Method, plain: Itinerary, before: dict[str, str]) -> None:
    """A target makes no instance that attaches what it does not have. Their step needs the permit of the next one."""
    way = forward_of(a_move(method=method, volumes=(DATA,)))
    assert way is WITH_VOLUMES[method]
    assert [step for step in way.steps if not step.name.endswith("_volumes")] == list(plain.steps)
    for first, following in before.items():
        assert way.after(first) == way.step(following)
        assert way.step(first).slot is way.step(following).slot is not None
    assert {step.name for step in way.steps if step.name.endswith("_volumes")} == {*before, "release_volumes"}


@pytest.mark.parametrize("method", [Method.WARM, Method.COLD])
def test_a_volumes_last_word_comes_after_the_stop_and_before_the_commit_point(method: Method) -> None:
    names = [step.name for step in WITH_VOLUMES[method].steps]
    wanted = ["stop_source", "final_volumes", "hand_over", "verify_target", "retire_source", "release_volumes"]
    assert [name for name in names if name in wanted] == wanted


def test_the_sources_volumes_are_the_last_to_go() -> None:
    """After the verification and after their instance: nothing that is deleted could still be needed."""
    for method, way in WITH_VOLUMES.items():
        if method in (Method.BACKUP, Method.DRILL):
            continue  # they take nothing from their source
        after = [step.name for step in way.steps[way.index("release_volumes") :]]
        assert after == ["release_volumes", "drop_snapshots"]
        assert way.step("release_volumes").slot is None
        assert not way.step("release_volumes").commit


def test_a_refresh_leaves_the_volumes_of_the_copy_as_they_are() -> None:
    """They are the copy's own since it was made."""
    assert attached_volumes(with_data(), a_move(method=Method.REFRESH)) == ()


def test_who_gave_back_goes_on_before_the_last_word() -> None:
    """What a later try needs of the volumes is looked at again."""
    for method, step in RESUME_AT_WITH_VOLUMES.items():
        way = WITH_VOLUMES[method]
        first = next(each for each in way.steps if each.name.endswith("_volumes"))
        assert way.index(step) <= way.index(first.name)


def test_a_job_that_redis_lost_ends_with_its_volumes() -> None:
    """The source was retired: what is left is to release them."""
    job = a_job("check_target", move=a_move(volumes=(DATA,)))
    copy = an_instance(config={"user.herder.job": "p1-1"})
    found = continued(job, Traces(source=None, copy=copy))
    assert found is not None
    assert (found.itinerary, found.step) == ("warm_with_volumes", "release_volumes")
