"""What counts as left over, what would be done about it, and above all what would not."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.drill import DRILLED
from common.domain.fleet import Pool, Profile, Server
from common.domain.instance import BACKUP_STATE, COPY_OF, GUARD_DEVICE, REFRESHED, Instance, Snapshot, guard_profile
from common.domain.job import Job, State
from common.domain.operation import Operation
from producer.debris.finding import find_debris, jobs_named, kin, lost_jobs
from producer.debris.others import starts_at_boot
from producer.debris.scene import MEANINGS, Action, Debris, Kind, Scene
from tests.builders import NOW, a_fleet, a_job, a_retired_instance, a_server, a_volume, an_instance, volumes_by_key
from tests.docs.pages import DOCS, first_cells
from workers.steps.marks import snapshot_name

JOB = "p1-1"
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
GUARD = {GUARD_DEVICE: {"type": "unix-char", "source": "/dev/herder-guard", "required": "true"}}
DELETE = "DELETE /1.0/instances/web1?project=default"
AT_WORK = [State.QUEUED, State.RUNNING, State.WAITING, State.PAUSED]


def marked(instance: Instance, **marks: str) -> Instance:
    """The instance with marks of the job."""
    written = {f"user.herder.{name}": value for name, value in {"job": JOB, **marks}.items()}
    return replace(instance, config={**instance.config, **written})


def a_source(**changes: Any) -> Instance:
    """``web1`` as a job has marked it: it runs, unless told otherwise."""
    return marked(an_instance(**changes), role="source", target="s2:web1")


def a_guarded_source(**changes: Any) -> Instance:
    """With the guard in the profile of its job."""
    devices = {**an_instance().expanded_devices, **GUARD}
    profiles = ("default", guard_profile(JOB))
    return a_source(**({"status": "Stopped", "expanded_devices": devices, "profiles": profiles} | changes))


def a_retired_source(name: str = "web1", **changes: Any) -> Instance:
    """What a finished move leaves on its source."""
    retired = a_retired_instance(name, job=JOB, **changes)
    return replace(retired, config={**retired.config, "user.herder.role": "source", "user.herder.target": "s2:web1"})


def a_copy(state: str = "receiving", **changes: Any) -> Instance:
    """What a job makes of ``web1`` on its target."""
    made = an_instance(**({"status": "Stopped", "devices": GUARD} | changes))
    return marked(made, role="target", source="s1:web1", state=state)


def a_target(**changes: Any) -> Instance:
    """The copy that was handed over, and runs."""
    return marked(an_instance(**changes), role="target", source="s1:web1", state="handed-over")


def a_guard_profile(job: str = JOB, **changes: Any) -> Profile:
    """As a job makes it."""
    return Profile(name=guard_profile(job), description=f"herder: guard of job {job}", **changes)


def having(server: Server, *profiles: Profile) -> Server:
    """The server with these profiles too."""
    default = {**server.profiles["default"], **{each.name: each for each in profiles}}
    return replace(server, profiles={**server.profiles, "default": default})


def with_snapshots(instance: Instance, *names: str) -> Instance:
    return replace(instance, snapshots=tuple(Snapshot(name=name, created_at=NOW) for name in names))


def a_scene(*servers: Server, job: State | None = None, **more: Any) -> Scene:
    """These servers, and what Redis knows of the job: nothing unless a state is given."""
    known: Mapping[str, Job] = {JOB: a_job(state=job)} if job else {}
    return replace(Scene(fleet=a_fleet(*servers), jobs=known), **more)


def found(scene: Scene, *kinds: Kind) -> list[Debris]:
    """What was left, of these kinds or of all."""
    pieces = find_debris(scene, stuck_after=timedelta(minutes=30))
    return [piece for piece in pieces if not kinds or piece.kind in kinds]


def the_one(scene: Scene, kind: Kind | None = None) -> Debris:
    (piece,) = found(scene, *([kind] if kind else []))
    return piece


def calls(piece: Debris) -> list[str]:
    return [str(call) for call in piece.calls]


def everything_of_a_job(source: Instance, copy: Instance) -> tuple[Server, Server]:
    """A source and a copy with snapshots, and the job's profile on both servers."""
    snapshots = ("owners", f"herder-{JOB}-0")
    return (
        having(a_server("s1", with_snapshots(source, *snapshots)), a_guard_profile()),
        having(a_server("s2", with_snapshots(copy, *snapshots)), a_guard_profile()),
    )


def test_servers_on_which_nobody_has_moved_anything_are_clean() -> None:
    """Instances, snapshots and profiles of their owners are no debris, whatever they are called."""
    owners = with_snapshots(an_instance(profiles=("default", "herder-web-1")), "herder", "herder-1", "herder-before")
    server = having(a_server("s1", owners), Profile(name="herder-web-1", description="of the web team"))
    assert found(a_scene(server, a_server("s2", an_instance("move-ofice")))) == []


def test_every_kind_has_a_meaning() -> None:
    """Which the command prints above what it has found, and the page explains."""
    assert list(MEANINGS) == list(Kind)
    assert first_cells(DOCS / "how-to" / "clean-up-with-the-janitor.md", "Mend") == list(Kind)


class TestJobs:
    @pytest.mark.parametrize("state", AT_WORK)
    def test_nothing_of_a_job_at_work_is_debris(self, state: State) -> None:
        """Whether a worker has it, or it waits, or is paused."""
        assert found(a_scene(*everything_of_a_job(a_source(), a_copy()), job=state)) == []

    @pytest.mark.parametrize("state", [None, State.DONE, State.CANCELLED])
    def test_all_that_an_ended_or_unknown_job_has_left_can_go(self, state: State | None) -> None:
        """While its source runs without the guard; the copy takes its snapshots with it."""
        pieces = found(a_scene(*everything_of_a_job(a_source(), a_copy()), job=state))
        assert [(piece.kind, piece.server, piece.subject) for piece in pieces] == [
            (Kind.HALF, "s2", "web1"),
            (Kind.SNAPSHOT, "s1", f"web1/herder-{JOB}-0"),
            (Kind.MARKS, "s1", "web1"),
            (Kind.PROFILE, "s1", f"herder-{JOB}"),
            (Kind.PROFILE, "s2", f"herder-{JOB}"),
        ]
        assert all(piece.is_mendable for piece in pieces)

    def test_a_parked_job_is_left_to_the_person_it_waits_for(self) -> None:
        """What it has left is shown, with the two commands that end it."""
        pieces = found(a_scene(*everything_of_a_job(a_source(), a_copy()), job=State.PARKED))
        assert len(pieces) == 5
        assert all(f"`herder retry {JOB}` or `herder cancel {JOB}`" in piece.held for piece in pieces)

    @pytest.mark.parametrize("state", [None, State.DONE, State.CANCELLED])
    @pytest.mark.parametrize(
        "source",
        [a_guarded_source(), a_guarded_source(status="Running"), a_source(status="Stopped"), a_source(status="Error")],
        ids=["guarded", "guarded and running", "stopped", "lost"],
    )
    @pytest.mark.parametrize(
        "copy", [a_copy(), a_copy("complete"), a_target(status="Stopped")], ids=["half", "complete", "freed"]
    )
    def test_nothing_is_touched_in_the_middle_of_a_cutover(
        self, state: State | None, source: Instance, copy: Instance
    ) -> None:
        """The source is guarded or down and no target runs: only recover knows how that goes on."""
        pieces = found(a_scene(*everything_of_a_job(source, copy), job=state))
        assert {Kind.SNAPSHOT, Kind.MARKS, Kind.PROFILE} <= {piece.kind for piece in pieces}
        assert [piece for piece in pieces if piece.is_mendable] == []
        assert all("herder recover" in piece.held for piece in pieces if piece.calls)

    def test_a_source_that_was_handed_over_and_not_retired_is_left_to_recover(self) -> None:
        """Its target runs, so snapshots may go; what a way back or a retirement rests on stays."""
        pieces = found(a_scene(*everything_of_a_job(a_guarded_source(), a_target())))
        assert {piece.kind: piece.is_mendable for piece in pieces if piece.server == "s1"} == {
            Kind.RETIRED: False,
            Kind.SNAPSHOT: True,
            Kind.PROFILE: False,
        }
        marks = next(piece for piece in pieces if piece.kind is Kind.MARKS)
        assert (marks.server, marks.held) == (
            "s2",
            "its source s1:web1 is not retired yet; `herder recover` finishes that",
        )

    def test_the_jobs_that_are_asked_for_are_those_that_anything_bears(self) -> None:
        """Marks, snapshots, profiles, and the names of wrecks."""
        wreck = an_instance("db-wreck-p4-1-2")
        server = having(a_server("s1", with_snapshots(a_source(), "herder-p2-7-0"), wreck), a_guard_profile("p3-1"))
        assert jobs_named(a_fleet(server)) == {JOB, "p2-7", "p3-1", "p4-1"}

    def test_lost_are_jobs_that_mark_an_instance_and_that_redis_does_not_know(self) -> None:
        """A retired source is over, whether Redis still knows its job or not."""
        servers = (a_server("s1", a_retired_instance("old", job="p0-1")), a_server("s2", a_copy()))
        assert lost_jobs(a_scene(*servers)) == (JOB,)
        assert lost_jobs(a_scene(*servers, job=State.RUNNING)) == ()


class TestHalf:
    def test_it_is_deleted_when_its_source_runs(self) -> None:
        """The proof names its state, its job and its source."""
        piece = the_one(a_scene(a_server("s1", a_source()), a_server("s2", a_copy())), Kind.HALF)
        assert calls(piece) == [DELETE]
        assert piece.proof == (
            f"state receiving, guarded, Stopped; job {JOB} is not known; its source s1:web1 is Running"
        )

    def test_a_source_without_marks_is_known_by_its_uuid(self) -> None:
        """As after an undo that could not reach the target."""
        assert the_one(a_scene(a_server("s1", an_instance()), a_server("s2", a_copy()))).is_mendable

    def test_an_independent_copy_is_never_the_only_one(self) -> None:
        """It has a uuid of its own, and its source was never touched."""
        half = a_copy()
        independent = replace(half, config={**half.config, "volatile.uuid": "other", COPY_OF: "uuid-of-web1"})
        assert the_one(a_scene(a_server("s1", an_instance()), a_server("s2", independent))).is_mendable

    def test_of_a_refresh_neither_the_copy_nor_what_was_kept_of_it_goes(self) -> None:
        """They were there before the job, and one of the two is whole; the job is found again and goes on."""
        half = a_copy()
        refreshed = {
            **half.config,
            "volatile.uuid": "other",
            COPY_OF: "uuid-of-web1",
            f"user.herder.{REFRESHED}": "true",
        }
        both = [replace(half, name=name, config=refreshed) for name in ("web1", f"web1-kept-{JOB}")]
        pieces = found(a_scene(a_server("s1", an_instance()), a_server("s2", *both)))
        assert [(piece.kind, piece.is_mendable) for piece in pieces] == [(Kind.HALF, False)] * 2
        assert all("`herder recover` goes on" in piece.held for piece in pieces)

    def test_without_a_source_it_may_be_the_only_copy(self) -> None:
        """Somebody may have deleted the source."""
        piece = the_one(a_scene(a_server("s1"), a_server("s2", a_copy("complete"))))
        assert piece.held == "no source with its uuid runs, so it may be the only copy"

    def test_another_instance_with_the_marks_is_no_source_of_it(self) -> None:
        """`lxc copy` takes the marks along, and gives another uuid."""
        alien = marked(an_instance("clone"), role="source")
        assert not the_one(a_scene(a_server("s1", alien), a_server("s2", a_copy())), Kind.HALF).is_mendable

    def test_nothing_is_decided_about_a_source_that_nobody_could_see(self) -> None:
        """It says why its server was not looked at."""
        piece = the_one(a_scene(a_server("s2", a_copy()), unseen={"s1": "no answer in time"}))
        assert piece.held == "s1:web1 was not seen: no answer in time"

    def test_a_source_may_be_known_by_another_name_of_its_server(self) -> None:
        """Marks have the name that the client of that time used."""
        servers = (a_server("s9", an_instance()), a_server("s2", a_copy()))
        assert the_one(a_scene(*servers, aliases={"s1": "s9"})).is_mendable

    def test_it_stays_while_its_server_works_on_it(self) -> None:
        """The transfer goes on when workers and Redis are gone."""
        operation = Operation(
            id="o1",
            status_code=103,
            description="Creating instance",
            created_at=NOW,
            resources={"instances": ("/1.0/instances/web1",)},
        )
        scene = a_scene(
            a_server("s1", a_source()), a_server("s2", a_copy()), operations={("s2", "default"): (operation,)}
        )
        assert the_one(scene, Kind.HALF).held == "'Creating instance' is under way on s2:web1"

    def test_one_that_runs_is_no_half_made_copy(self) -> None:
        """A person has started it: its marks are what is left, and they stay while the source runs too."""
        pieces = found(a_scene(a_server("s1", a_source()), a_server("s2", a_copy(status="Running", devices={}))))
        assert {piece.kind for piece in pieces} == {Kind.MARKS, Kind.DOUBLE}
        assert [piece for piece in pieces if piece.is_mendable] == []

    def test_on_btrfs_one_without_data_but_with_snapshots_needs_root(self) -> None:
        """LXD would fail for ever; the hint is what to type on the server."""
        copy = with_snapshots(replace(a_copy(), project="shop"), "owners")
        scene = a_scene(a_server("s1", a_source()), a_server("s2", copy), phantoms=frozenset({("s2", "shop", "web1")}))
        piece = the_one(scene, Kind.PHANTOM)
        assert piece.calls == ()
        assert "btrfs subvolume create shop_web1 && lxc delete --project shop web1" in piece.hint

    @pytest.mark.parametrize(
        ("last_used", "twin", "is_mendable"),
        [(NEVER, "Running", True), (NEVER, "Stopped", False), (NOW, "Running", False)],
        ids=["never ran, twin runs", "never ran, twin is stopped", "has run here"],
    )
    def test_a_guard_without_marks_goes_only_if_it_never_ran_and_its_twin_runs(
        self, last_used: datetime, twin: str, is_mendable: bool
    ) -> None:
        """One that has run may be a source of which nothing tells any more whether it was handed over."""
        guarded = an_instance(status="Stopped", devices=GUARD, last_used_at=last_used)
        scene = a_scene(a_server("s1", an_instance(status=twin)), a_server("s2", guarded))
        assert the_one(scene, Kind.HALF).is_mendable is is_mendable


class TestMarks:
    def test_they_go_with_the_profile_that_the_job_has_added(self) -> None:
        """In one patch."""
        source = replace(a_source(), profiles=("default", guard_profile(JOB)))
        piece = the_one(a_scene(a_server("s1", source), a_server("s2")))
        config = '{"user.herder.job": "", "user.herder.role": "", "user.herder.target": ""}'
        body = f'{{"config": {config}, "profiles": ["default"]}}'
        assert calls(piece) == [f"PATCH /1.0/instances/web1?project=default {body}"]

    def test_a_target_keeps_them_until_somebody_has_seen_its_source(self) -> None:
        """The source may be guarded and not retired."""
        piece = the_one(a_scene(a_server("s2", a_target()), unseen={"s1": "refused"}))
        assert piece.held == "s1:web1 was not seen: refused"

    def test_a_target_whose_source_is_retired_or_deleted_loses_them(self) -> None:
        """The move was over but for its last step."""
        for source in ([a_retired_source()], []):
            piece = the_one(a_scene(a_server("s1", *source), a_server("s2", a_target())), Kind.MARKS)
            assert piece.is_mendable

    def test_what_a_hook_has_left_quiet_is_told_and_only_its_policy_can_end_it(self) -> None:
        """While its job is at work it is nobody else's; of one that is parked the hint is another."""
        quiet = an_instance(config={"user.herder.hook": JOB})
        assert jobs_named(a_fleet(a_server("s1", quiet))) == {JOB}
        assert [found(a_scene(a_server("s1", quiet), job=state)) for state in AT_WORK] == [[]] * len(AT_WORK)
        gone = the_one(a_scene(a_server("s1", quiet)), Kind.MARKS)
        assert (gone.is_mendable, "lxc config unset s1:web1 user.herder.hook" in gone.hint) == (False, True)
        parked = the_one(a_scene(a_server("s1", quiet), job=State.PARKED))
        assert (parked.is_mendable, parked.hint) == (False, f"`herder retry {JOB}`")


class TestRetired:
    def test_it_can_be_deleted_when_its_twin_runs(self) -> None:
        """It says since when it is retired, and how much space it takes if the server tells."""
        scene = a_scene(
            a_server("s1", a_retired_source()),
            a_server("s2", an_instance(created_at=NOW - timedelta(hours=3))),
            used={("s1", "default", "web1"): 5 * 1024**2},
        )
        piece = the_one(scene)
        assert (piece.kind, calls(piece), piece.held) == (Kind.RETIRED, [DELETE], "")
        assert "3 h 0 min ago (2025-05-31 22:00 UTC), takes 5.0 MiB; s2:web1 has its uuid and runs" in piece.proof

    def test_within_a_cluster_its_twin_is_on_another_member(self) -> None:
        """One server, two names, and two members."""
        retired = replace(a_retired_source(), name="web1-retired-p1-1", location="c2")
        piece = the_one(a_scene(a_server("s1", retired, an_instance(location="c3"))))
        assert (piece.kind, piece.held) == (Kind.RETIRED, "")

    def test_the_end_of_its_job_is_since_when(self) -> None:
        """Better than the age of the copy, where Redis still knows."""
        scene = a_scene(
            a_server("s1", a_retired_source()),
            a_server("s2", an_instance()),
            jobs={JOB: a_job(state=State.DONE, finished_at=NOW - timedelta(minutes=5))},
        )
        assert "5 min 0 s ago" in the_one(scene).proof

    @pytest.mark.parametrize(
        "twins",
        [[], [an_instance(status="Stopped")], [an_instance(config={"volatile.uuid": "another"})]],
        ids=["gone", "stopped", "of the same name only"],
    )
    def test_the_only_good_copy_is_never_deleted(self, twins: list[Instance]) -> None:
        """There is not even a call."""
        piece = the_one(a_scene(a_server("s1", a_retired_source()), a_server("s2", *twins)), Kind.RETIRED)
        assert (piece.calls, piece.is_mendable) == ((), False)

    def test_a_twin_on_the_same_server_does_not_count(self) -> None:
        """Both would be gone with it."""
        server = a_server("s1", a_retired_source(), an_instance(project="other"))
        assert not the_one(a_scene(server), Kind.RETIRED).is_mendable

    def test_its_twin_may_have_moved_on(self) -> None:
        """From s2, where it is retired too, to s3."""
        servers = (
            a_server("s1", a_retired_source()),
            a_server("s2", a_retired_source()),
            a_server("s3", an_instance()),
        )
        assert [piece.is_mendable for piece in found(a_scene(*servers))] == [True, True]

    def test_what_undo_has_kept_is_never_deleted(self) -> None:
        """It was the target: since the hand-over the guest has written there and nowhere else."""
        kept = a_server("s2", a_retired_instance(job=JOB))
        piece = the_one(a_scene(a_server("s1", an_instance()), kept, job=State.CANCELLED))
        assert (piece.kind, piece.is_mendable) == (Kind.RETIRED, False)
        assert piece.held.startswith("`herder undo` has kept it")

    def test_a_protected_one_and_one_that_waits_for_a_person_stay(self) -> None:
        """security.protection.delete, and a parked job."""
        twin = a_server("s2", an_instance())
        protected = a_retired_source(expanded_config={"security.protection.delete": "true"})
        assert the_one(a_scene(a_server("s1", protected), twin)).held == "security.protection.delete is set"
        assert "parked" in the_one(a_scene(a_server("s1", a_retired_source()), twin, job=State.PARKED)).held

    def test_the_risk_names_snapshots_that_only_it_has(self) -> None:
        """They go with it."""
        retired = with_snapshots(a_retired_source(), "both", "only-here")
        piece = the_one(a_scene(a_server("s1", retired), a_server("s2", with_snapshots(an_instance(), "both"))))
        assert piece.risk.endswith("lost with it are the snapshots that only it has: only-here")


class TestWrecksAndTemporaryInstances:
    def test_a_wreck_on_btrfs_needs_root_and_others_can_be_deleted(self) -> None:
        """LXD has failed on it already, or it would not have been set aside."""
        wreck = marked(an_instance("web1-wreck-p1-1-1", status="Stopped"), role="target", source="s1:web1")
        on_btrfs = the_one(a_scene(a_server("s1"), a_server("s2", wreck)), Kind.WRECK)
        assert (on_btrfs.calls, "btrfs subvolume create web1-wreck-p1-1-1" in on_btrfs.hint) == ((), True)
        on_dir = a_server("s2", wreck, pools={"default": Pool(name="default", driver="dir")})
        assert the_one(a_scene(a_server("s1"), on_dir), Kind.WRECK).is_mendable

    def test_a_wreck_does_not_outlive_its_job_because_the_target_runs_beside_it(self) -> None:
        """The same machine runs on the wreck's own server: the cutover is over."""
        wreck = marked(an_instance("web1-wreck-p1-1-1", status="Stopped"), role="target", source="s1:web1")
        wreck = replace(wreck, config={**wreck.config, "volatile.uuid": "uuid-of-web1"})
        target = a_server("s2", wreck, an_instance(), pools={"default": Pool(name="default", driver="dir")})
        scene = a_scene(a_server("s1", a_retired_source()), target, job=State.DONE)
        assert the_one(scene, Kind.WRECK).is_mendable

    @pytest.mark.parametrize("name", ["lxd-move-of-uuid-of-web1", "move-of-uuid-of-web1"])
    def test_a_temporary_instance_goes_if_the_original_is_there(self, name: str) -> None:
        """A protected one is unprotected first, or LXD would refuse."""
        left = an_instance(name, status="Stopped", config={"volatile.uuid": "uuid-of-web1"})
        protected = replace(left, expanded_config={"security.protection.delete": "true"})
        original = an_instance(status="Stopped")
        path = f"/1.0/instances/{name}?project=default"
        assert calls(the_one(a_scene(a_server("s1", left, original)))) == [f"DELETE {path}"]
        assert calls(the_one(a_scene(a_server("s1", protected, original)))) == [
            f'PATCH {path} {{"config": {{"security.protection.delete": "false"}}}}',
            f"DELETE {path}",
        ]

    @pytest.mark.parametrize(
        ("status", "originals", "held"),
        [
            ("Stopped", [], "it may be the only copy"),
            ("Stopped", [an_instance(devices=GUARD)], "it may be the only copy"),
            ("Running", [an_instance()], "it runs"),
        ],
        ids=["alone", "beside a guarded one", "running"],
    )
    def test_a_temporary_instance_that_may_be_the_only_one_stays(
        self, status: str, originals: list[Instance], held: str
    ) -> None:
        """LXD renames it last: before, the original is the instance, if there is one."""
        left = an_instance("lxd-move-of-uuid-of-web1", status=status, config={"volatile.uuid": "uuid-of-web1"})
        assert the_one(a_scene(a_server("s1", left, *originals)), Kind.TEMPORARY).held == held

    def test_a_record_without_data_that_nobody_has_signed_is_only_told(self) -> None:
        """Neither herder nor LXD's own naming: it may be of anybody."""
        wreck = an_instance(status="Stopped", last_used_at=NEVER)
        piece = the_one(a_scene(a_server("s1", wreck), phantoms=frozenset({("s1", "default", "web1")})))
        assert (piece.kind, piece.calls) == (Kind.PHANTOM, ())
        assert "lxc delete s1:web1" in piece.hint

    def test_a_copy_that_is_being_received_is_no_phantom(self) -> None:
        """Its root directory comes with the last of its snapshots."""
        coming = an_instance(status="Stopped", last_used_at=NEVER)
        phantoms = frozenset({("s1", "default", "web1")})
        receiving = Operation(id="o1", status_code=103, resources={"containers": ("/1.0/containers/web1",)})
        scene = a_scene(a_server("s1", coming), phantoms=phantoms, operations={("s1", "default"): (receiving,)})
        assert found(scene) == []


class TestSnapshotsAndProfiles:
    def test_a_snapshot_is_known_by_the_name_that_workers_give(self) -> None:
        """On any instance, marked or not."""
        instance = with_snapshots(an_instance(), snapshot_name(a_job(), 3), "owners")
        piece = the_one(a_scene(a_server("s1", instance)))
        assert calls(piece) == [f"DELETE /1.0/instances/web1/snapshots/herder-{JOB}-3?project=default"]

    def test_an_old_snapshot_stays_while_another_job_works_on_its_instance(self) -> None:
        """That one sends what has changed since."""
        instance = with_snapshots(a_source(), "herder-p0-1-0")
        assert found(a_scene(a_server("s1", instance), a_server("s2"), job=State.RUNNING)) == []

    def test_a_profile_is_taken_off_what_uses_it_and_deleted(self) -> None:
        """If that runs and is not guarded."""
        user = an_instance(profiles=("default", guard_profile(JOB)))
        piece = the_one(a_scene(having(a_server("s1", user), a_guard_profile())))
        assert calls(piece) == [
            'PATCH /1.0/instances/web1?project=default {"profiles": ["default"]}',
            f"DELETE /1.0/profiles/herder-{JOB}?project=default",
        ]

    def test_a_profile_that_keeps_a_source_from_starting_stays(self) -> None:
        """Though the target runs, and though its marks are gone."""
        source = replace(a_guarded_source(), config={"volatile.uuid": "uuid-of-web1"})
        server = having(a_server("s1", source), a_guard_profile(devices=GUARD))
        piece = the_one(a_scene(server, a_server("s2", an_instance())), Kind.PROFILE)
        assert piece.held == "it keeps s1:web1 from starting"

    def test_a_project_that_shares_the_profiles_of_the_default_one_does_not_count_twice(self) -> None:
        """LXD lists them for both."""
        server = having(a_server("s1"), a_guard_profile())
        shared = replace(server, profiles={**server.profiles, "shop": server.profiles["default"]})
        assert the_one(a_scene(shared)).project == "default"


class TestDoubles:
    @pytest.mark.parametrize(
        ("config", "starts"),
        [
            ({"boot.autostart": "true"}, True),
            ({"boot.autostart": "false", "volatile.last_state.power": "RUNNING"}, False),
            ({"volatile.last_state.power": "RUNNING"}, True),
            ({"volatile.last_state.power": "STOPPED"}, False),
            ({}, False),
        ],
    )
    def test_what_starts_at_boot_is_kept_from_it_when_its_twin_runs(self, config: dict[str, str], starts: bool) -> None:
        """boot.autostart decides; without it, whether it ran last."""
        stopped = an_instance(status="Stopped", config=config)
        assert starts_at_boot(stopped) is starts
        piece = the_one(a_scene(a_server("s1", stopped), a_server("s2", an_instance())))
        expected = 'PATCH /1.0/instances/web1?project=default {"config": {"boot.autostart": "false"}}'
        assert (piece.server, calls(piece)) == ("s1", [expected] if starts else [])
        assert piece.proof.endswith("at boot start: s1:web1" if starts else "at boot start: none")

    def test_the_same_name_and_address_are_enough(self) -> None:
        """An import of a backup keeps the address; a copy by an older server has no uuid."""
        pair = [
            an_instance(config={"volatile.uuid": uuid, "volatile.eth0.hwaddr": "00:16:3e:00:00:01"})
            for uuid in ("a", "b")
        ]
        piece = the_one(a_scene(a_server("s1", pair[0]), a_server("s2", pair[1])))
        assert "the same name and the same address 00:16:3e:00:00:01" in piece.proof
        assert (piece.calls, piece.hint) == ((), "both run: stop one of them now, then look at both")

    def test_of_two_that_are_stopped_nobody_can_tell_which_shall_start(self) -> None:
        """So nothing is changed."""
        twins = [an_instance(status="Stopped", config={"boot.autostart": "true"})] * 2
        piece = the_one(a_scene(a_server("s1", twins[0]), a_server("s2", twins[1])))
        assert (piece.calls, "at boot start: s1:web1, s2:web1" in piece.proof) == ((), True)

    def test_instances_that_only_have_the_same_name_or_server_are_no_doubles(self) -> None:
        """Nor are a guarded one and what it has become."""
        others = (an_instance(config={"volatile.uuid": "another"}), a_retired_instance("web2"))
        assert found(a_scene(a_server("s1", an_instance()), a_server("s2", *others)), Kind.DOUBLE) == []
        assert found(a_scene(a_server("s1", an_instance(), an_instance(project="shop")))) == []


class TestOperations:
    def an_operation(self, **changes: Any) -> Operation:
        defaults: dict[str, Any] = {
            "description": "Migrating instance",
            "may_cancel": True,
            "created_at": NOW - timedelta(hours=1),
            "resources": {"instances": ("/1.0/instances/web1",)},
        }
        return Operation(id="o1", status_code=103, **(defaults | changes))

    def scene(self, operation: Operation, **more: Any) -> Scene:
        return a_scene(a_server("s1", a_source()), operations={("s1", "default"): (operation,)}, **more)

    def test_an_old_transfer_that_nobody_waits_for_is_cancelled(self) -> None:
        """The proof says how far it is."""
        piece = the_one(self.scene(self.an_operation(metadata={"fs_progress": "web1: 3MB (1MB/s)"})), Kind.OPERATION)
        assert calls(piece) == ["DELETE /1.0/operations/o1"]
        assert piece.proof == "'Migrating instance' of web1 for 1 h 0 min; web1: 3MB (1MB/s); no job waits for it"

    def test_one_that_cannot_be_cancelled_is_told_with_what_ends_it(self) -> None:
        """Only a restart of its daemon does."""
        piece = the_one(
            self.scene(self.an_operation(may_cancel=False, description="Live-migrating instance")), Kind.OPERATION
        )
        assert (piece.calls, "restart of the daemon of s1" in piece.hint) == ((), True)

    @pytest.mark.parametrize(
        ("changes", "more"),
        [
            ({"created_at": NOW - timedelta(minutes=29)}, {}),
            ({"description": "Executing command"}, {}),
            ({}, {"awaited": frozenset({"o1"})}),
            ({}, {"job": State.WAITING}),
        ],
        ids=["young", "no transfer", "a job waits for it", "its instance is in the hands of a job"],
    )
    def test_others_are_not_stuck(self, changes: dict[str, Any], more: dict[str, Any]) -> None:
        """Long transfers of our own are not cancelled."""
        assert found(self.scene(self.an_operation(**changes), **more), Kind.OPERATION) == []


def test_a_decision_rests_on_the_instance_its_job_and_the_same_machines() -> None:
    """These are read again before it is carried out."""
    clone = marked(an_instance("clone"), role="source")
    bystander = an_instance("bystander")
    scene = a_scene(
        a_server("s1", a_source(), clone, bystander), a_server("s2", a_copy()), a_server("s3", an_instance())
    )
    piece = the_one(scene, Kind.HALF)
    assert {str(each) for each in kin(scene, piece)} == {"s1:web1", "s1:clone", "s2:web1", "s3:web1"}


INSTANCES = st.builds(
    lambda instance, status, snapshots: replace(with_snapshots(instance, *snapshots), status=status),
    st.sampled_from(
        [
            an_instance(),
            a_source(),
            a_guarded_source(),
            a_copy(),
            a_copy("complete"),
            a_target(),
            a_retired_source(),
            an_instance("lxd-move-of-uuid-of-web1", config={"volatile.uuid": "uuid-of-web1"}),
            an_instance(devices=GUARD, last_used_at=NEVER),
        ]
    ),
    st.sampled_from(["Running", "Stopped"]),
    st.sampled_from([(), (f"herder-{JOB}-0",)]),
)


@given(
    there=st.lists(st.lists(INSTANCES, max_size=2, unique_by=lambda i: i.name), min_size=1, max_size=3),
    state=st.sampled_from([None, *State]),
)
def test_whatever_is_there_no_good_copy_is_lost(there: list[list[Instance]], state: State | None) -> None:
    """If all is done that may be done, nothing that runs is deleted, and of what is deleted another good one is left.

    Good is one that runs; for LXD's own temporary instances, one without the guard.
    """
    servers = [a_server(f"s{number + 1}", *instances) for number, instances in enumerate(there)]
    scene = a_scene(*servers, job=state)
    deleted = {
        (piece.server, call.name): piece.kind
        for piece in found(scene)
        for call in piece.calls
        if piece.is_mendable and call.action is Action.DELETE
    }
    everything = {(server.remote, each.name): each for server in servers for each in server.instances}
    left = [instance for place, instance in everything.items() if place not in deleted]
    for place, kind in deleted.items():
        assert not everything[place].is_running
        good = (each.is_running or (kind is Kind.TEMPORARY and not each.is_guarded) for each in left)
        assert any(good)


def with_volume(name: str = "data", *, users: tuple[str, ...] = (), **marks: str) -> Server:
    """s1, with one volume, which bears these marks."""
    config = {f"user.herder.{key}": value for key, value in marks.items()}
    return a_server("s1", volumes=volumes_by_key(a_volume(name, config=config, used_by=users)))


@pytest.mark.parametrize(
    ("state", "hint"),
    [
        (None, "`herder recover` goes on with its job"),
        (State.CANCELLED, "`lxc storage volume delete s1:default data --project default`, or keep it"),
        (State.DONE, "`lxc storage volume delete s1:default data --project default`, or keep it"),
    ],
)
def test_a_volume_with_the_marks_of_a_job_that_is_not_at_work_is_told_and_not_touched(
    state: State | None, hint: str
) -> None:
    scene = a_scene(with_volume(job=JOB, role="target", state="receiving"), job=state)
    piece = the_one(scene)
    assert (piece.kind, piece.subject, piece.calls) == (Kind.VOLUME, "volume default/data", ())
    assert "attached by nobody" in piece.proof
    assert hint in piece.hint
    assert jobs_named(scene.fleet) == {JOB}
    assert lost_jobs(scene) == (() if state else (JOB,))


@pytest.mark.parametrize("state", AT_WORK)
def test_a_volume_of_a_job_at_work_is_left_out(state: State) -> None:
    """So is what is beside it."""
    assert found(a_scene(with_volume(job=JOB, state="moving"), job=state)) == []
    assert found(a_scene(with_volume(f"data-kept-{JOB}"), job=state)) == []


def test_a_volume_of_a_parked_job_waits_for_a_person() -> None:
    piece = the_one(a_scene(with_volume(job=JOB, state="moving"), job=State.PARKED))
    assert "`herder retry p1-1` or `herder cancel p1-1`" in piece.held


def test_what_a_volume_was_before_a_refresh_is_told_by_its_name() -> None:
    """It bears no marks: it was somebody's before."""
    piece = the_one(a_scene(with_volume(f"data-kept-{JOB}")))
    assert (piece.kind, piece.job) == (Kind.VOLUME, JOB)
    assert piece.hint.startswith("what default/data was before a refresh that broke")


def test_what_is_made_of_a_volumes_backup_is_told_by_its_name() -> None:
    """Its marks, if it has any, are those of its source, which may be another job's."""
    name = f"data-import-{JOB}-3"
    for server in (with_volume(name), with_volume(name, job="p9-9", state="retired")):
        piece = the_one(a_scene(server, job=State.CANCELLED))
        assert (piece.kind, piece.job) == (Kind.VOLUME, JOB)
        assert piece.hint.startswith(f"`lxc storage volume delete s1:default {name}")


@pytest.mark.parametrize("state", [None, State.DONE, State.CANCELLED])
def test_a_volumes_backup_goes_when_its_job_is_over_or_unknown(state: State | None) -> None:
    backups = {("s1", "default", "default", "data"): frozenset({f"herder-{JOB}-0", "monthly"})}
    scene = a_scene(a_server("s1", volumes=volumes_by_key(a_volume())), job=state, backups=backups)
    piece = the_one(scene)
    assert (piece.kind, piece.subject, piece.job) == (Kind.BACKUP, f"backup default/data/herder-{JOB}-0", JOB)
    assert piece.is_mendable
    assert calls(piece) == [
        f"DELETE /1.0/storage-pools/default/volumes/custom/data/backups/herder-{JOB}-0?project=default"
    ]
    assert JOB in jobs_named(scene.fleet, backups=backups["s1", "default", "default", "data"])


@pytest.mark.parametrize("state", [*AT_WORK, State.PARKED])
def test_a_volumes_backup_stays_as_long_as_its_job_may_need_it(state: State) -> None:
    backups = {("s1", "default", "default", "data"): frozenset({f"herder-{JOB}-0"})}
    scene = a_scene(a_server("s1", volumes=volumes_by_key(a_volume())), job=state, backups=backups)
    assert not [piece for piece in found(scene) if piece.is_mendable]


def test_a_retired_volume_is_told_with_what_is_retired_unless_an_instance_attaches_it() -> None:
    piece = the_one(a_scene(with_volume(job=JOB, state="retired"), job=State.DONE))
    assert (piece.kind, piece.calls) == (Kind.RETIRED, ())
    assert piece.hint.startswith("`lxc storage volume delete s1:default data")
    assert found(a_scene(with_volume(users=("/1.0/instances/web1",), job=JOB, state="retired"), job=State.DONE)) == []
    assert lost_jobs(a_scene(with_volume(job=JOB, state="retired"))) == ()


def test_a_volume_that_a_project_shares_with_the_default_one_is_told_once() -> None:
    server = with_volume(job=JOB, state="receiving")
    (volume,) = server.volumes.values()
    shared = replace(server, volumes=volumes_by_key(volume, replace(volume, project="shop")))
    assert len(found(a_scene(shared))) == 1


class TestClonesOfDrills:
    """What a drill has begun, and nobody goes on with."""

    @staticmethod
    def scene(status: str = "Running", state: State | None = None) -> Scene:
        clone = marked(an_instance(status=status), role="drill", source="s2:gen", state="drilled")
        clone = replace(clone, config={**clone.config, BACKUP_STATE: DRILLED})
        return a_scene(a_server("s2", clone), job=state)

    @pytest.mark.parametrize("state", [None, State.DONE, State.CANCELLED])
    def test_one_that_runs_is_stopped_and_deleted(self, state: State | None) -> None:
        piece = the_one(self.scene(state=state))
        assert (piece.kind, piece.is_mendable) == (Kind.DRILL, True)
        stop = 'PUT /1.0/instances/web1/state?project=default {"action": "stop", "force": true}'
        assert calls(piece) == [stop, DELETE]
        assert calls(the_one(self.scene("Stopped", state))) == [DELETE]

    @pytest.mark.parametrize("state", AT_WORK)
    def test_one_whose_job_is_at_work_is_no_debris(self, state: State) -> None:
        assert found(self.scene(state=state)) == []

    def test_one_whose_job_is_parked_waits_for_a_person(self) -> None:
        assert "parked" in the_one(self.scene(state=State.PARKED)).held
