"""What herder writes on instances (``user.herder.*``)."""

import uuid

from common.domain.errors import IdentityMismatch
from common.domain.generation import moment_of
from common.domain.instance import INSTANCE_ID, INSTANCE_ID_MARK, MARK_PREFIX, Config, Instance, guard_profile
from common.domain.job import Job
from workers.steps.context import Context

UNSET = "unset"
#: The state of a refreshed copy that makes way for what was kept: nothing releases it any more.
LEAVING = "leaving"

#: Set on the copy so that its server does not start it and so that we can remove it; the wanted values are marked.
_OVERRIDDEN = {"boot.autostart": "autostart", "security.protection.delete": "protection"}

_ID_MARK = INSTANCE_ID_MARK.removeprefix(MARK_PREFIX)


def mark(name: str) -> str:
    """The config key of a mark."""
    return MARK_PREFIX + name


def uuid_of_copy(job: Job) -> str:
    """The uuid of the instance that a copy becomes: known beforehand, so that it is found again without marks."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"herder:{job.id}"))


def snapshot_name(job: Job, number: int) -> str:
    """The name of our snapshot for pass ``number``; all passes of a backup send that of its run."""
    return job.move.backup.snapshot if job.move.backup else f"herder-{job.id}-{number}"


def is_own_snapshot(job: Job, name: str) -> bool:
    """Whether this job made the snapshot, or of a backup any run of its policy."""
    if job.move.backup:
        return moment_of(name, job.move.backup.policy) is not None
    return name.startswith(f"herder-{job.id}-")


def wanted(config: Config) -> dict[str, str]:
    """Marks that remember what shall be restored at the cutover."""
    return {mark(short): config.get(key, UNSET) for key, short in _OVERRIDDEN.items()}


def remembered_id(instance: Instance) -> dict[str, str]:
    """A mark for the id by which cloud-init knows the machine: LXD gives it another one when it is renamed."""
    return {INSTANCE_ID_MARK: instance.config[INSTANCE_ID]} if INSTANCE_ID in instance.config else {}


def restored(instance: Instance) -> dict[str, str]:
    """The instance's whole config with the remembered values back in place."""
    config = dict(instance.config)
    for key, short in _OVERRIDDEN.items():
        remembered = instance.marks.get(short)
        if remembered is None:
            continue
        config.pop(key, None)
        if remembered != UNSET:
            config[key] = remembered
    return config | id_of_mark(instance)


def id_of_mark(instance: Instance) -> dict[str, str]:
    """The id for cloud-init that its mark remembers."""
    return {INSTANCE_ID: instance.marks[_ID_MARK]} if _ID_MARK in instance.marks else {}


def marked(ctx: Context, source: Instance) -> Instance:
    """The source with the marks of this job, which it has from preflight on.

    A cancel takes them off; if Redis loses that it was cancelled, the job goes on without. Raises IdentityMismatch if
    it is another job's by now. The source of a copy is left as it is.
    """
    if ctx.move.is_copy:
        return source
    holder = source.marks.get("job")
    if holder == ctx.job.id:
        return source
    if holder and source.marks.get("state") != "retired":
        raise IdentityMismatch(f"{ctx.move.source}:{source.name} belongs to job {holder} now")
    mark_source(ctx, source)
    return ctx.source_instance()


def mark_source(ctx: Context, source: Instance) -> None:
    """Say on the source whose it is, what it was, and what a lost record is rebuilt from."""
    is_ours = source.marks.get("job") == ctx.job.id
    with ctx.taken_back_if_late(lambda: _unmark_again(ctx)):
        ctx.patch_source(
            {
                mark("job"): ctx.job.id,
                mark("role"): "source",
                mark("target"): f"{ctx.move.target}:{ctx.move.name}",
                mark("memo"): ctx.memo(ctx.job),
                mark("ran"): str(bool(ctx.job.facts["was_running"])).lower(),
                **({} if is_ours else wanted(restored(source))),
            }
        )


def _unmark_again(ctx: Context) -> None:
    """A job that goes on marks its source again before every pass."""
    source = ctx.source_instance()
    if source.marks.get("job") == ctx.job.id and guard_profile(ctx.job.id) not in source.profiles:
        ctx.source.patch(source.name, project=source.project, seen=source, config=unmarked(source))


def ran_before(ctx: Context, source: Instance) -> bool:
    """Whether it ran before this job; from the moment of its guard on only the mark knows, should Redis forget."""
    is_stopped_by_us = guard_profile(ctx.job.id) in source.profiles or source.is_retired
    if source.marks.get("job") == ctx.job.id and is_stopped_by_us:
        return source.marks.get("ran") == "true"
    return source.is_running or source.status == "Frozen"  # by a pass whose daemon died


def unmarked(instance: Instance) -> dict[str, str]:
    """A patch that removes every mark."""
    return {mark(name): "" for name in instance.marks}
