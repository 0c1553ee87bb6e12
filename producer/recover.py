"""Jobs rebuilt from what they wrote on the servers, for a Redis that has lost them.

Each instance that a job works on carries its memo. What a plan had not begun left no trace: it is planned anew, from
the request in the memos. Called by ``herder recover``; nothing is changed until ``restore``.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from common.config import Settings
from common.domain.errors import HerderError, InputError, NotFound
from common.domain.instance import Instance, guard_profile
from common.domain.job import Job
from common.domain.plan import Method, Plan, Request
from common.domain.recovery import Guard, Traces, continued, continued_volume
from common.domain.volume import Volume
from common.lxd.client import LxdClient
from common.lxd.connect import connect
from common.lxd.remotes import Remotes
from common.store.jobs import JobStore
from common.store.memo import Memo, read_memo
from producer.inventory import take_inventory
from producer.planner import make_plan, select
from producer.submit import submit

Place = tuple[str, str, str]  # remote, project, instance


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What was found: jobs at the step that comes next, plans for what was not begun, and what could not be told."""

    jobs: tuple[Job, ...] = ()
    plans: tuple[Plan, ...] = ()
    not_begun: tuple[Plan, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Seen:
    """Every server's instances, and whom to ask for more."""

    clients: dict[str, LxdClient] = field(default_factory=dict)
    instances: dict[Place, Instance] = field(default_factory=dict)
    volumes: dict[Place, Volume] = field(default_factory=dict)  # as POOL/NAME
    notes: list[str] = field(default_factory=list)


def find(remotes: Remotes, settings: Settings, store: JobStore, *, new_plan_id: Callable[[], str]) -> Recovery:
    """Ask every remote for the traces of jobs that the store does not know."""
    seen = _see(remotes, settings)
    memos = _memos(seen, store)
    jobs = tuple(job for memo in memos.values() if (job := _continued(memo, seen)) is not None)
    seen.notes.extend(_frozen(seen))
    plans = _plans(jobs, memos)
    not_begun = tuple(_not_begun(plans, seen, remotes, settings, new_plan_id))
    return Recovery(jobs=jobs, plans=plans, not_begun=not_begun, notes=tuple(seen.notes))


def restore(recovery: Recovery, store: JobStore) -> None:
    """Write plans and jobs, and send their wake-ups. Doing it twice changes nothing."""
    for plan in recovery.plans:
        store.save_plan(plan)
    for job in recovery.jobs:
        store.create(job)
    for plan in recovery.not_begun:
        submit(plan, store)
    store.wait_durable()


def _see(remotes: Remotes, settings: Settings) -> _Seen:
    seen = _Seen()

    def look(name: str) -> tuple[LxdClient, tuple[Instance, ...], tuple[Volume, ...]] | HerderError:
        try:
            client = connect(
                remotes.get(name), connect_timeout=settings.connect_timeout, read_timeout=settings.read_timeout
            )
            volumes = tuple(each for project in client.projects() for each in client.volumes(project=project))
            return client, client.instances(None), volumes
        except HerderError as error:
            return error

    names = [remote.name for remote in remotes]
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
        for name, answer in zip(names, pool.map(look, names), strict=True):
            if isinstance(answer, HerderError):
                seen.notes.append(f"{name} was not asked: {answer.message}")
                continue
            client, instances, volumes = answer
            seen.clients[name] = client
            seen.instances.update({(name, each.project, each.name): each for each in instances})
            seen.volumes.update({(name, each.project, each.place): each for each in volumes})
    return seen


def _memos(seen: _Seen, store: JobStore) -> dict[str, Memo]:
    """By job id, of jobs that the store does not know."""
    found: dict[str, Memo] = {}
    marked: tuple[tuple[Place, Instance | Volume], ...] = (*seen.instances.items(), *seen.volumes.items())
    for (remote, _, name), each in marked:
        text, job_id = each.marks.get("memo"), each.marks.get("job", "")
        is_retired = isinstance(each, Instance) and each.is_retired
        if not text or job_id in found or is_retired or store.job(job_id) is not None:
            continue
        try:
            found[job_id] = read_memo(text)
        except InputError as error:
            seen.notes.append(f"{remote}:{name} belongs to job {job_id}, but {error.message}")
    return found


def _continued(memo: Memo, seen: _Seen) -> Job | None:
    move = memo.job.move
    missing = [remote for remote in (move.source, move.target) if remote not in seen.clients]
    if missing:
        seen.notes.append(f"{move.instance}: {' and '.join(missing)} did not answer; run this again when it does")
        return None
    if move.is_of_volume:
        marked = [each for each in seen.volumes.values() if each.marks.get("job") == memo.job.id]
        return continued_volume(memo.job, seen.volumes.get((move.target, move.target_project, move.name)), marked)
    traces = Traces(
        source=memo.job.source_among(lambda name: seen.instances.get((move.source, move.project, name))),
        copy=memo.job.copy_among(lambda name: seen.instances.get((move.target, move.target_project, name))),
        guard=_guard(seen.clients[move.source], memo.job),
    )
    return continued(memo.job, traces)


def _frozen(seen: _Seen) -> Iterator[str]:
    """LXD freezes what is copied from a dir pool, and a daemon that dies meanwhile leaves it so; a copy has no memo."""
    for (remote, project, name), instance in seen.instances.items():
        if instance.status != "Frozen" or "job" in instance.marks:
            continue
        operations = seen.clients[remote].operations(project=project)
        if not any(name in each.instances and not each.is_finished for each in operations):
            thaw = f"`lxc start {remote}:{name}`"
            yield f"{remote}:{name} is frozen, by a person or by a copy that was lost; {thaw} lets it go on"


def _guard(client: LxdClient, job: Job) -> Guard:
    try:
        config = client.profile(guard_profile(job.id), project=job.move.project).config
    except NotFound:
        return Guard()
    return Guard(state=config.get("user.herder.state", ""), since=config.get("user.herder.since", ""))


def _plans(jobs: tuple[Job, ...], memos: Mapping[str, Memo]) -> tuple[Plan, ...]:
    """The plans of these jobs, with no other moves."""
    of_plan: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda each: each.number):
        of_plan.setdefault(job.plan, []).append(job)
    return tuple(
        Plan(
            id=plan_id,
            name=memos[known[0].id].plan_name,
            created_at=min(job.created_at for job in known),
            request=memos[known[0].id].request,
            moves=tuple(job.move for job in known),
            numbers=tuple(job.number for job in known),
        )
        for plan_id, known in of_plan.items()
    )


def _not_begun(
    plans: tuple[Plan, ...], seen: _Seen, remotes: Remotes, settings: Settings, new_plan_id: Callable[[], str]
) -> list[Plan]:
    """For each plan one more, of the instances that its request means and that no job has touched."""
    taken: set[Place] = set()
    made: list[Plan] = []
    for plan in plans:
        method = plan.request.policy.method
        if method is not None and method.is_of_volume:
            if len(plan.request.select.instances) != 1:
                seen.notes.append(f"plan {plan.id} ({plan.name}) may have had more volumes; give its command again")
            continue
        if method is Method.FAILOVER or plan.request.goes_home:
            # Where else they may run is looked at by the command only.
            seen.notes.append(f"plan {plan.id} ({plan.name}) may have had more instances; give its command again")
            continue
        names = _untouched(plan.request, seen, taken)
        if method is Method.COPY:
            # Nothing marks the source of a copy; but what bears its name on a target is that copy, or in its way.
            there = {place[2] for place in seen.instances if place[0] in plan.request.targets}
            names = tuple(name for name in names if name not in there)
        if not names or plan.request.rename:
            continue
        request = replace(
            plan.request,
            select=replace(plan.request.select, instances=names),
            each={name: own for name, own in plan.request.each.items() if name in names},
        )
        try:
            fleet = take_inventory(request, remotes, settings)
        except HerderError as error:
            seen.notes.append(f"what plan {plan.id} had not begun cannot be planned now: {error.message}")
            continue
        made.append(make_plan(request, fleet, plan_id=new_plan_id()))
        taken |= {(request.select.source, request.select.project, name) for name in names}
    return [plan for plan in made if plan.moves or plan.refusals]


def _untouched(request: Request, seen: _Seen, taken: set[Place]) -> tuple[str, ...]:
    here = [
        instance
        for place, instance in seen.instances.items()
        if place[0] == request.select.source and "job" not in instance.marks and place not in taken
    ]
    everywhere = request.select.all_projects
    present = {instance.name for instance in here if everywhere or instance.project == request.select.project}
    wanted = replace(request.select, instances=tuple(n for n in request.select.instances if n in present))
    if request.select.instances and not wanted.instances:
        return ()
    return tuple(instance.name for instance in select(here, wanted))
