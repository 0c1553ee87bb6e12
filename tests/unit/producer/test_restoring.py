"""Which generations a restore means, and what the instances are made of."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from common.domain.drill import BACKUP_DRILL
from common.domain.errors import InputError
from common.domain.fleet import Profile
from common.domain.generation import EMPTY_PROFILE, Generation
from common.domain.plan import NameMap, Overrides, Plan, Thing
from producer.planner import make_plan
from producer.restoring import Chosen, Wanted, choose, in_boot_order, requests, with_definitions
from tests.builders import NIC, NOW, ROOT_DISK, a_fleet, a_generation, a_server, an_instance

NIGHT = timedelta(days=1)


def told(of: str = "web1", *, remote: str = "s2", nights_ago: int = 0, source: str = "s1") -> Generation:
    found = Generation.of(a_generation(of), remote)
    assert found is not None
    moment = NOW - nights_ago * NIGHT
    return replace(found, at=moment, source=f"{source}:default/{of}", name=f"{of}-{moment:%d}")


def a_definition(of: str = "web1", **changes: Any) -> dict[str, Any]:
    web = {"name": "web", "description": "", "config": {"limits.memory": "1GiB"}, "devices": {"eth0": NIC}}
    defaults = {
        "name": of,
        "config": {"user.owner": "ann", "boot.autostart": "true", "volatile.eth0.hwaddr": "00:16:3e:00:00:01"},
        "devices": {"eth0": {**NIC, "network": "front"}},
        "expanded_devices": {"root": ROOT_DISK, "eth0": {**NIC, "network": "front"}},
        "profiles": [web],
        "networks": {"front": {"type": "bridge", "description": "", "config": {}}},
        "project_definition": {"description": "theirs", "config": {"user.owner": "ann"}},
    }
    return defaults | changes


def planned(*chosen: Chosen, wanted: Wanted | None = None, **target: Any) -> Plan:
    """The only plan of a restore from s2 onto s3."""
    there = [replace(a_generation(), name=each.generation.name) for each in chosen]
    fleet = a_fleet(a_server("s2", *there), a_server("s3", **target))
    (request,) = requests(chosen, wanted or Wanted(to="s3"))
    return in_boot_order(make_plan(request, with_definitions(fleet, request, chosen), plan_id="p1"), chosen)


def test_of_each_instance_the_newest_generation_that_is_old_enough_is_meant() -> None:
    """Whichever target has it; instances of other servers are others."""
    found = [told(nights_ago=n, remote=r) for n, r in ((0, "s2"), (1, "d1"), (2, "s2"))]
    found += [told("db"), told(source="s9")]
    assert choose(found, "s1", "web1", None) == [found[0]]
    assert choose(found, "s1", "web1", NOW - NIGHT) == [found[1]]
    assert choose(found, "s1", "", NOW) == [found[0], found[3]]


def test_a_generation_can_be_named_itself() -> None:
    """By the server that has it."""
    found = [told(), told(nights_ago=1)]
    assert choose(found, "s2", found[1].name, None) == [found[1]]


def test_where_nothing_is_old_enough_nothing_else_is_taken() -> None:
    """A younger one may have what the restore is to be rid of."""
    with pytest.raises(InputError, match="no generation of s1:web1"):
        choose([told()], "s1", "web1", NOW - NIGHT)


def test_an_instance_is_made_of_its_definition_and_not_of_what_its_generation_is() -> None:
    """Neither the guard nor the marks of a backup come along, and addresses only if they are asked for."""
    (move,) = planned(Chosen(told(), a_definition()), wanted=Wanted(to="s3", overrides=EVERYTHING)).moves
    config = move.overrides.over(a_generation(marks={BACKUP_DRILL: "{}"}).config)
    assert (move.name, move.overrides.profiles) == ("web1", ("web",))
    assert config["user.owner"] == "ann"
    assert not [key for key in config if key.startswith("user.herder") or key.endswith("hwaddr")]
    assert move.overrides.devices["eth0"]["network"] == "front"
    assert [(each.thing, each.name) for each in move.creations] == [("network", "front"), ("profile", "web")]


DATA = {"type": "disk", "pool": "default", "source": "data", "path": "/data"}
KEPT = {"pool": "default", "name": "data", "kept_in": "slow", "kept_as": "data-57ef-20300101-000000"}


def restored_volumes(**wanted: Any) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """How the device looks that attaches the volume, and which volumes come along: from where, and as what."""
    definition = a_definition(devices={"data": DATA}, volumes=[KEPT])
    (request,) = requests([Chosen(told(), definition)], Wanted(to="s3", **wanted))
    (own,) = request.each.values()
    found = [(str(volume), volume.target_pool, volume.target_name) for volume in own.volumes]
    return dict(own.overrides.devices.get("data", {})), found


def test_the_volumes_beside_a_generation_come_back_under_their_own_names() -> None:
    """In the pools of the target, with the device that attaches them."""
    kept = f"slow/{KEPT['kept_as']}"
    assert restored_volumes() == (DATA, [(kept, "default", "data")])
    mapped = restored_volumes(overrides=Overrides(map=NameMap(pools={"default": "fast"})))
    assert mapped == ({**DATA, "pool": "fast"}, [(kept, "fast", "data")])


def test_an_instance_under_another_name_gets_volumes_of_its_own() -> None:
    """It is made beside the one that has the others."""
    device, volumes = restored_volumes(name="older")
    assert (device["source"], [name for _, _, name in volumes]) == ("data-older", ["data-older"])


@pytest.mark.parametrize("device", [{"source": "other"}, {"type": "none"}], ids=["another", "masked"])
def test_a_volume_that_the_instance_shall_not_attach_stays_where_it_is(device: dict[str, str]) -> None:
    """Of a device that is masked nothing is left but the mask; a server takes nothing else beside it."""
    found, volumes = restored_volumes(overrides=Overrides(devices={"data": device}))
    assert volumes == []
    assert found == (device if "type" in device else {**DATA, **device})


def test_a_project_that_is_gone_is_made_as_it_was() -> None:
    everything = Wanted(to="s3", project="shop", overrides=replace(EVERYTHING, create=tuple(Thing)))
    (move,) = planned(Chosen(told(), a_definition()), wanted=everything).moves
    assert [(each.thing, each.name) for each in move.creations] == [
        ("project", "shop"), ("network", "front"), ("profile", "web"),
    ]  # fmt: skip
    assert (move.creations[0].description, move.creations[0].config) == ("theirs", {"user.owner": "ann"})


EVERYTHING = Overrides(create=(Thing.PROFILE, Thing.NETWORK))


def test_what_the_target_lacks_is_refused() -> None:
    """Before anything is made, and by name."""
    (refusal,) = planned(Chosen(told(), a_definition())).refusals
    assert {finding.code for finding in refusal.findings} == {"profile", "network"}


def test_what_it_had_of_its_profiles_can_become_its_own() -> None:
    """In the target's names; what the instance says itself comes first."""
    names = NameMap(networks={"front": "lxdbr0"})
    wanted = Wanted(to="s3", bakes=True, keeps_addresses=True, overrides=Overrides(map=names))
    plan = planned(Chosen(told(), a_definition()), wanted=wanted)
    (move,) = plan.moves
    assert (move.overrides.profiles, plan.warnings) == ((), ())
    assert move.overrides.config["limits.memory"] == "1GiB"
    assert move.overrides.config["volatile.eth0.hwaddr"] == "00:16:3e:00:00:01"
    assert move.overrides.devices["eth0"]["network"] == "lxdbr0"


def test_an_empty_profile_that_only_backups_need_is_not_taken_for_the_one_that_is_meant() -> None:
    """The instance would come back without its limits, and nobody would notice."""
    empty = {"default": {"web": Profile(name="web", description=f"{EMPTY_PROFILE} s1")}}
    with pytest.raises(InputError, match="empty"):
        planned(Chosen(told(), a_definition()), profiles=empty)


def test_instances_come_back_in_the_order_in_which_they_start() -> None:
    """Highest boot.autostart.priority first, also that of a profile."""
    first = [{"name": "default", "description": "", "config": {"boot.autostart.priority": "9"}, "devices": {}}]
    second = {"boot.autostart.priority": "5"}
    chosen = [
        Chosen(told("a"), a_definition("a", profiles=[])),
        Chosen(told("b"), a_definition("b", profiles=[], config=second)),
        Chosen(told("c"), a_definition("c", profiles=first)),
    ]
    plan = planned(*chosen, wanted=Wanted(to="s3", overrides=Overrides(create=(Thing.NETWORK,))))
    assert [move.name for move in plan.moves] == ["c", "b", "a"]


def test_a_new_name_needs_a_single_instance() -> None:
    """Two cannot have it."""
    with pytest.raises(InputError, match="--as"):
        requests([Chosen(told(each), a_definition(each)) for each in ("a", "b")], Wanted(name="new"))


def test_the_server_that_has_the_generations_can_be_the_target() -> None:
    """A copy on the spot; nobody else is copied so."""
    one = Chosen(told(), a_definition(profiles=[], devices={}))
    there = replace(a_generation(), name=one.generation.name)
    (request,) = requests([one], Wanted(to="s2"))
    fleet = a_fleet(a_server("s2", there))
    (move,) = make_plan(request, with_definitions(fleet, request, [one]), plan_id="p1").moves
    assert (move.is_local, move.name) == (True, "web1")
    with pytest.raises(InputError, match="source and a target at once"):
        make_plan(request, a_fleet(a_server("s2", an_instance(there.name))), plan_id="p1")
