"""Failovers and the way home: which instances, onto which servers, and what stands in the way. Pure but for the looks.

A failover is a restore beside the generation that takes the place of its source; so what must be known before is where
else that instance may run. Called by ``herder backup failover`` and ``home``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from common.config import Settings
from common.domain.errors import HerderError, InputError, ServerUnreachable
from common.domain.failover import FailoverOrder
from common.domain.instance import FAILED_OVER, FAILED_OVER_BY, Instance
from common.domain.itinerary import GUARD_STALE
from common.domain.plan import Finding, Limits, Move, Overrides, Own, Plan, Policy, Refusal, Request, Selection
from common.lxd.connect import connect
from common.lxd.remotes import Remotes
from producer.report import Report
from producer.restoring import Chosen

#: The instances of each server that answers, by its remote.
Seen = Mapping[str, Sequence[Instance]]


def look_everywhere(remotes: Remotes, settings: Settings, *, homes: Collection[str]) -> Seen:
    """All instances of all remotes, but of those that do not answer. Raises what those at home answer but instances."""

    def look(name: str) -> tuple[Instance, ...] | None:
        client = connect(
            remotes.get(name), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
        )
        try:
            return client.instances(None)
        except ServerUnreachable:
            return None
        except HerderError:
            if name in homes:
                raise
            return None

    names = [remote.name for remote in remotes]
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    return {name: instances for name, instances in found.items() if instances is not None}


def check_statement(homes: Iterable[str], seen: Seen, *, source_is_down: bool) -> None:
    """What the operator says of the servers at home is neither left out nor wrong.

    Raises ServerUnreachable and InputError.
    """
    homes = sorted(set(homes))
    silent = [home for home in homes if home not in seen]
    if silent and not source_is_down:
        raise ServerUnreachable(
            f"{', '.join(silent)} does not answer, so nobody can tell whether the instances run there",
            hint="see that it is off, or cut from its network for good; then say so with --source-is-down",
        )
    if source_is_down and not silent:
        raise InputError(f"{', '.join(homes)} answers", hint="leave --source-is-down out")


def as_failover(plan: Plan, chosen: Sequence[Chosen], seen: Seen) -> Plan:
    """The plan, whose moves know whose place they take; those that may run elsewhere are refused by name."""
    by_name = {each.generation.name: each for each in chosen}
    moves: list[Move] = []
    refusals: list[Refusal] = []
    others = {each.instance: each.findings for each in plan.refusals}
    planned = {move.instance: move for move in plan.moves}
    (target,) = plan.request.targets
    for name in (*planned, *others):
        order = order_for(by_name[name], seen)
        findings = tuple(_in_the_way(by_name[name], order, target, seen)) or others.get(name, ())
        if findings:
            refused = Refusal(instance=order.instance, source=order.remote, project=order.project, findings=findings)
            refusals.append(refused)
        else:
            moves.append(replace(planned[name], failover=order))
    down = sorted({str(move.failover) for move in moves if move.failover and move.failover.source_is_down})
    said = [f"you say that the server of {', '.join(down)} is down; they are guarded as soon as it answers"]
    warnings = (*plan.warnings, *(said if down else ()))
    return replace(plan, moves=tuple(moves), refusals=tuple(refusals), warnings=warnings)


def order_for(chosen: Chosen, seen: Seen) -> FailoverOrder:
    """What its failover knows; generations of earlier versions do not tell whether their instance ran."""
    remote, _, rest = chosen.generation.source.partition(":")
    project, _, instance = rest.partition("/")
    return FailoverOrder(
        remote=remote,
        project=project,
        instance=instance,
        identity=chosen.definition.get("identity", ""),
        source_is_down=remote not in seen,
        starts=bool(chosen.definition.get("ran", True)),
    )


def _in_the_way(chosen: Chosen, order: FailoverOrder, target: str, seen: Seen) -> Iterator[Finding]:
    """Wherever the instance may run."""
    there = (i for i in seen.get(order.remote, ()) if (i.project, i.name) == (order.project, order.instance))
    for instance in there:
        if not instance.is_stopped:
            yield Finding(
                code="runs",
                message=f"it is {instance.status} on {order.remote}",
                hint=f"`herder move {order} {target}:` moves it with all that it has; or stop it",
            )
    for remote, instances in seen.items():
        for instance in instances:
            if (remote, instance.project, instance.name) == (order.remote, order.project, order.instance):
                continue
            same = instance.config.get("volatile.uuid") == chosen.definition.get("identity")
            took_place = instance.config.get(FAILED_OVER) == order.source
            if (same or took_place) and not (instance.is_guarded or instance.is_backup):
                where = f"{remote}:{instance.name}"
                way = f"`herder backup home {where}`" if took_place else f"delete {where} first, if it is lost"
                yield Finding(code="elsewhere", message=f"{where} is this instance now, {instance.status}", hint=way)


def has_taken_over(report: Report) -> bool:
    """Whether nothing is left but to wait for servers at home, and to guard what is there."""
    return report.has_ended or all(job.finished_at or job.step == GUARD_STALE for job in report.jobs)


class _Way(NamedTuple):
    remote: str
    project: str
    home: str
    home_project: str


def requests_home(
    here: Iterable[tuple[str, Instance]], policy: Policy, limits: Limits, overrides: Overrides
) -> list[Request]:
    """One request for each server and project that has failed-over instances, and each home."""
    groups: dict[_Way, list[tuple[Instance, str]]] = {}
    for remote, instance in here:
        home, _, rest = instance.config[FAILED_OVER].partition(":")
        project, _, name = rest.partition("/")
        groups.setdefault(_Way(remote, instance.project, home, project), []).append((instance, name))
    return [
        Request(
            name=f"home to {way.home} from {way.remote}",
            select=Selection(
                source=way.remote, project=way.project, instances=tuple(instance.name for instance, _ in group)
            ),
            targets=(way.home,),
            target_project=way.home_project,
            policy=policy,
            limits=limits,
            overrides=replace(overrides, config={**overrides.config, FAILED_OVER: "", FAILED_OVER_BY: ""}),
            each={instance.name: Own(name=name) for instance, name in group},
            goes_home=True,
        )
        for way, group in groups.items()
    ]


def failed_over(
    selected: Iterable[tuple[str, str]], remotes: Remotes, settings: Settings
) -> list[tuple[str, Instance]]:
    """The instances of these remotes and names, ``""`` for all, that a failover has made. Raises InputError."""
    found: list[tuple[str, Instance]] = []
    for remote, name in dict.fromkeys(selected):
        client = connect(
            remotes.get(remote), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
        )
        here = [i for i in client.instances(None) if FAILED_OVER in i.config and not (i.is_retired or i.is_backup)]
        meant = [(remote, i) for i in here if name in ("", i.name)]
        if not meant:
            raise InputError(f"{remote}:{name} is nothing that was failed over", hint="`herder backup failover`")
        found += meant
    return list({(remote, i.project, i.name): (remote, i) for remote, i in found}.values())
