"""How old the last good backup of each instance is, and who breaks its policy."""

from dataclasses import replace
from datetime import timedelta

from common.domain.backup import BackupPolicy, BackupTarget, DrillPolicy, Schedule
from common.domain.drill import Drill
from common.domain.generation import Generation
from common.domain.plan import Selection
from producer.ages import ages, newest_run
from tests.builders import NOW, an_instance

HOUR = timedelta(hours=1)
POLICY = BackupPolicy(
    name="nightly",
    select=Selection(source="s1"),
    schedule=Schedule(when="daily"),
    targets=(BackupTarget(remote="s2"), BackupTarget(remote="s3")),
    rpo=26 * HOUR,
)


def generation(hours_ago: int, remote: str = "s2", *, of: str = "web1", policy: str = "nightly") -> Generation:
    return Generation(
        policy=policy,
        source=f"s1:default/{of}",
        at=NOW - hours_ago * HOUR,
        remote=remote,
        project="default",
        name=f"{of}-{hours_ago}",
    )


def test_the_newest_of_the_policy_on_each_target_counts() -> None:
    """Not that of another policy, of another instance or on another target."""
    found = [
        generation(30),
        generation(2),
        generation(1, policy="other"),
        generation(1, of="web2"),
        generation(27, "s3"),
    ]
    on_s2, on_s3 = ages(POLICY, [an_instance("web1")], found, NOW)
    assert (on_s2.generation, on_s2.age, on_s2.is_breached) == ("web1-2", 2 * HOUR, False)
    assert (on_s3.generation, on_s3.age, on_s3.is_breached) == ("web1-27", 27 * HOUR, True)


def test_an_archive_is_a_target_as_a_remote_is() -> None:
    """A generation counts where it is."""
    policy = replace(POLICY, targets=(BackupTarget(remote="s2"), BackupTarget(archive="/srv/vault")))
    in_archive = replace(generation(3), remote="", archive="/srv/vault")
    on_s2, in_vault = ages(policy, [an_instance("web1")], [generation(30), in_archive], NOW)
    assert (on_s2.age, on_s2.is_breached) == (30 * HOUR, True)
    assert (in_vault.target, in_vault.age, in_vault.generation) == ("/srv/vault", 3 * HOUR, "web1-3")


def test_the_newest_run_is_one_that_reached_every_target() -> None:
    """An instance that has left the policy has an old backup for ever; that of a new one is still to come."""
    instances = [an_instance("web1"), an_instance("web2"), an_instance("new")]
    found = [generation(2), generation(2, of="web2"), generation(26, "s3"), generation(99, of="gone")]
    found.append(generation(2, "s3", of="web2"))
    assert newest_run(ages(POLICY, instances, found, NOW)) == NOW - 26 * HOUR
    assert newest_run(ages(POLICY, instances, [], NOW)) is None


def test_an_instance_without_a_backup_is_as_old_as_itself() -> None:
    young, old = an_instance("young", created_at=NOW - HOUR), an_instance("old", created_at=NOW - 99 * HOUR)
    told = {(each.source, each.target): each for each in ages(POLICY, [young, old], [], NOW)}
    assert not told["s1:default/young", "s2"].is_breached
    assert told["s1:default/old", "s3"].is_breached
    assert told["s1:default/old", "s3"].last_good is None


def drilled(hours_ago: int, drill_hours_ago: int, *, succeeded: bool = True) -> Generation:
    at = NOW - drill_hours_ago * HOUR
    return replace(generation(hours_ago), drill=Drill(at=at, generation="g", succeeded=succeeded))


def test_a_backup_is_unproven_when_its_last_drill_failed_or_is_too_long_ago() -> None:
    """On the target whose generations are drilled; a drill of an older generation counts, and none counts from it."""
    drills = DrillPolicy(schedule=Schedule(when="weekly"), max_age=10 * HOUR)
    policy = replace(POLICY, drill=drills)

    def unproven(*found: Generation, policy: BackupPolicy = policy) -> list[bool]:
        return [each.is_unproven for each in ages(policy, [an_instance("web1")], found, NOW)]

    assert unproven(generation(1), drilled(30, 9)) == [False, False]
    assert unproven(generation(1), drilled(30, 11)) == [True, False]
    assert unproven(generation(9)) == [False, False]
    assert unproven(generation(1), generation(11), generation(11, "s3")) == [True, False]
    assert unproven(drilled(1, 1, succeeded=False), drilled(30, 9)) == [True, False]
    assert unproven(drilled(1, 1, succeeded=False), policy=POLICY) == [True, False]
    assert unproven() == [False, False]
    assert unproven(generation(11), policy=replace(policy, drill=replace(drills, max_age=None))) == [False, False]
