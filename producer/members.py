"""Members of a cluster on their way into maintenance and out of it: who may leave, who takes over, what LXD is told.

The moves themselves are a plan like any other. Around them a member is closed to new instances, and marked as evacuated
when nothing is left that could move: LXD's own evacuation then has only to stop what stays with its member. Called by
``herder evacuate`` and ``herder restore``; everything looks first, so that a run that broke off is simply run again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from common.domain.errors import InputError, TransferFailed
from common.domain.fleet import Member
from common.domain.instance import HOME, ORIGIN, Instance
from common.lxd.client import LxdClient
from producer.placement import taking_members

_PLACES_ON_IT, _PLACED_BEFORE = "scheduler.instance", "user.herder-scheduler-before"
_NEVER, _UNSET = "manual", "unset"
_VOTES = "database"
#: How LXD and Incus call what they do themselves with a member.
_BY_LXD = ("Evacuating cluster member", "Restoring cluster member")
#: How long one request waits for an evacuation or a restore, in seconds; LXD stops one instance after the other.
_LOOK_AGAIN_SECONDS = 30


def members_of(client: LxdClient, names: Sequence[str]) -> Mapping[str, Member]:
    """All members of the cluster by name. Raises InputError if it is none, or has none of these names."""
    if not client.info().clustered:
        raise InputError(
            f"{client.remote} is no cluster, so {', '.join(names)} is no member of it",
            hint=f"`herder evacuate {client.remote}: --to TARGET:` empties a single server",
        )
    members = {member.name: member for member in client.members()}
    unknown = [name for name in names if name not in members]
    if unknown:
        has = ", ".join(sorted(members))
        raise InputError(f"{client.remote} has no member {', '.join(unknown)}; its members are {has}")
    away = [f"{name} is {members[name].status}" for name in names if not _is_up(members[name])]
    if away:
        raise InputError(
            f"member {', '.join(away)}: what is on it cannot be read", hint="start it, then run this again"
        )
    return members


def check_quorum(members: Mapping[str, Member], leaving: Collection[str]) -> None:
    """Raises InputError if the cluster's database could not decide any more were all these members shut down.

    Whoever is offline or evacuated counts as shut down. A single one may always go: when it is shut down it gives its
    vote to another one.
    """
    voters = {name for name, member in members.items() if _VOTES in member.roles}
    away = {name for name, member in members.items() if name in leaving or not member.is_online}
    kept = voters - away
    if len(away) > 1 and 2 * len(kept) <= len(voters):
        raise InputError(
            f"with {', '.join(sorted(away))} away, {len(kept)} of {len(voters)} members that vote in the cluster's "
            "database would be left, which is no majority: the cluster would stop working once they are shut down",
            hint="evacuate fewer at once; bring those back first that are offline or evacuated",
        )


def takers(
    cluster: str, members: Mapping[str, Member], leaving: Collection[str], asked: Sequence[str]
) -> tuple[str, ...]:
    """The members that take the instances: those asked for, ``@GROUP`` among them, else all others at work.

    Raises InputError if nobody is left.
    """
    others = {name: member for name, member in members.items() if name not in leaving}
    wrong = [name for name in asked if not name.startswith("@") and name not in others]
    if wrong:
        free = [name for name, member in others.items() if member.is_online]
        raise InputError(
            f"{', '.join(wrong)} cannot take anything: it is no member, or leaves itself",
            hint=f"members that can: {', '.join(free) or 'none'}",
        )
    return taking_members(cluster, others, asked)


def close(client: LxdClient, member: Member) -> None:
    """Let LXD place nothing new on it, and note there what was so before."""
    if _PLACED_BEFORE not in member.config:
        before = member.config.get(_PLACES_ON_IT) or _UNSET
        client.configure_member(member.name, {_PLACES_ON_IT: _NEVER, _PLACED_BEFORE: before})


def check_idle(client: LxdClient, names: Collection[str]) -> None:
    """Raises InputError while LXD itself evacuates or restores one of these members."""
    busy = [each for each in client.operations() if each.description in _BY_LXD and not each.is_finished]
    of_these = [each for each in busy if each.location in names]
    if of_these:
        first = of_these[0]
        raise InputError(
            f"{client.remote}: '{first.description}' is under way on {first.location}",
            hint=f"wait for its end: `lxc query {client.remote}:/1.0/operations/{first.id}/wait`; then run this again",
        )


def start_stranded(client: LxdClient, name: str) -> tuple[str, ...]:
    """Start what LXD itself has stopped, to evacuate a member, before it failed; the names of what it found.

    What does not start stays stopped, and moves as it is.
    """
    stranded = [i for i in client.instances(None) if i.config.get(ORIGIN) == name and i.is_stranded]
    for instance in stranded:
        begun = client.start(instance.name, project=instance.project)
        client.wait(begun, timeout_seconds=_LOOK_AGAIN_SECONDS)
    return tuple(instance.name for instance in stranded)


def reopen(client: LxdClient, member: Member) -> None:
    """In service again: what the evacuation stopped on it is started, and LXD places on it as before.

    What has left it comes back afterwards, as its plan says: LXD's own restore would stop all that it finds.
    """
    if member.is_evacuated:
        _take_over(client, member.name)
        _finish(client, client.restore_member(member.name), f"the restore of {member.name}")
    before = member.config.get(_PLACED_BEFORE)
    if before is not None:
        was = "" if before == _UNSET else before
        client.configure_member(member.name, {_PLACES_ON_IT: was, _PLACED_BEFORE: ""})


def remaining(instances: Iterable[Instance], member: str) -> tuple[Instance, ...]:
    """What LXD's own evacuation would move away from a member."""
    return tuple(i for i in instances if i.location == member and not i.stays_with_member)


def mark_evacuated(client: LxdClient, name: str) -> tuple[Instance, ...]:
    """Evacuated, if nothing remains on it that could move; what remains otherwise. Raises TransferFailed."""
    left = remaining(client.instances(None), name)
    is_evacuated = {member.name: member.is_evacuated for member in client.members()}[name]
    if not left and not is_evacuated:
        _finish(client, client.evacuate_member(name), f"the evacuation of {name}")
    return left


def settle_at_home(client: LxdClient, home: str) -> None:
    """Take the notes of where they belong off all instances that are there."""
    for instance in client.instances(None):
        if instance.location == home and instance.home == home:
            client.patch(instance.name, project=instance.project, config={HOME: "", ORIGIN: ""})


def _take_over(client: LxdClient, home: str) -> None:
    """Have what has left a member, by whatever means, come back by a plan of herder's."""
    for instance in client.instances(None):
        if instance.location != home and instance.config.get(ORIGIN) == home:
            client.patch(instance.name, project=instance.project, config={HOME: instance.home, ORIGIN: ""})


def _is_up(member: Member) -> bool:
    return member.is_online or member.is_evacuated


def _finish(client: LxdClient, operation: str, what: str) -> None:
    while True:
        found = client.wait(operation, timeout_seconds=_LOOK_AGAIN_SECONDS)
        if found is None:
            raise TransferFailed(f"{client.remote} forgot {what}", hint="run this again")
        if found.is_finished:
            break
    if not found.succeeded:
        raise TransferFailed(f"{what}: {found.error}", hint="mend what it says, then run this again")
