"""Pause, resume, retry and cancel: asked for by a person, carried out by the workers at the next checkpoint."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from common.domain.errors import InputError
from common.domain.itinerary import BRING_BACK
from common.domain.job import Job, State
from common.domain.plan import Method, Move, Retire
from common.store.jobs import JobStore


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request for one job; ``refused`` says why not, empty if it was accepted."""

    job: str
    instance: str
    done: str = ""
    refused: str = ""


#: What there is behind the commit point of a job that is not brought back, and how it is removed.
_MADE = {
    Method.COPY: "the copy {where} is an instance of its own now; `lxc delete {where}` removes it",
    Method.IMPORT: "the import {where} is an instance of its own now; `lxc delete {where}` removes it",
    Method.VOLUME_COPY: "the copy {where} counts now; `lxc storage volume delete` removes it",
    Method.VOLUME_REFRESH: "{where} has been replaced by a verified copy; what it was is not kept",
    Method.VOLUME_MOVE: "it is past the commit point: {where} is the volume now; "
    "delete the retired one on {move.source}, and `herder volume move {where} {move.source}:` moves it back",
    Method.EXPORT: "the export is whole; to be rid of it, remove {move.file} and its manifest from {move.target}",
    Method.ARCHIVE: "the backup is complete; to be rid of it, remove {move.file} and its manifest from {move.target}",
    Method.BACKUP: "the backup is complete; `lxc delete {move.target}:{move.generation}` removes it",
    Method.FAILOVER: "{where} has taken the place of {move.failover}; `herder backup home {where}` brings it home",
    Method.DRILL: "the drill is over, {move.instance} has proven itself, and the clone is being removed",
}


def jobs_of(name: str, store: JobStore) -> tuple[Job, ...]:
    """The jobs meant by a plan's or a job's id. Raises InputError if it is neither."""
    job = store.job(name)
    if job is not None:
        return (job,)
    store.plan(name)
    return store.jobs(name)


def pause(name: str, store: JobStore) -> list[Answer]:
    """Start no other step; the step at hand is finished, and an instance that is down is brought up first."""

    def ask(job: Job) -> Answer:
        if job.has_ended or job.state is State.PAUSED:
            return _refuse(job, f"it is {job.state}")
        store.control(job.id, "pause")
        return _accept(job, "pauses after its step")

    return _each(name, store, ask)


def cancel(name: str, store: JobStore) -> list[Answer]:
    """Back to the source, leaving nothing; refused after the commit point."""

    def ask(job: Job) -> Answer:
        if job.state in (State.DONE, State.CANCELLED):
            return _refuse(job, f"it is {job.state}")
        if job.is_committed:
            where = f"{job.move.target}:{job.move.name}"
            if job.move.is_copy or job.move.is_of_volume:
                if job.move.is_refresh:
                    return _refuse(job, f"{where} has been refreshed and verified; what it was is being removed")
                return _refuse(job, _MADE[job.move.method].format(where=where, move=job.move))
            back = f"`herder undo {job.id}` brings it back"
            return _refuse(job, f"it is past the commit point: {where} is the instance now; {back}")
        if job.state is State.PARKED:
            return _requeue(job, store, Job.cancelled, "goes back to the source")
        store.control(job.id, "cancel")
        return _accept(job, "goes back to the source")

    return _each(name, store, ask)


def undo(name: str, store: JobStore) -> list[Answer]:
    """Back to the source from wherever it is; what the target wrote since stays there, stopped."""

    def ask(job: Job) -> Answer:
        if job.itinerary == BRING_BACK.name and job.state is not State.PARKED:
            return _refuse(job, "it is back already" if job.has_ended else "it is on its way back")
        if not job.is_committed:
            (answer,) = cancel(job.id, store)
            return answer
        if job.move.is_copy or job.move.is_of_volume:
            return _refuse(job, _why_never_back(job.move))
        if job.state is State.DONE and job.move.policy.retire is Retire.DELETE:
            return _refuse(job, f"its source was deleted; move {job.move.target}:{job.move.name} back instead")
        if not job.has_ended:
            return _refuse(job, f"it is past its commit point and goes on to the end; then `herder undo {job.id}`")
        return _requeue(job, store, Job.brought_back, "goes back to the source")

    return _each(name, store, ask)


def _why_never_back(move: Move) -> str:
    where = f"{move.target}:{move.name}"
    if move.is_refresh:
        return f"{where} has been refreshed and verified; what it was is not kept"
    if move.archive or move.backup or move.drill or move.failover or move.is_of_volume:
        return _MADE[move.method].format(where=where, move=move)
    return f"it is a copy, its source has never stopped; `lxc delete {where}` removes the copy"


def retry(name: str, store: JobStore) -> list[Answer]:
    """Try parked jobs again from their checkpoint, cancelled ones from the beginning."""

    def ask(job: Job) -> Answer:
        if job.state not in (State.PARKED, State.CANCELLED):
            return _refuse(job, f"it is {job.state}; only parked and cancelled jobs are tried again")
        return _requeue(job, store, Job.retried, "is tried again")

    return _each(name, store, ask)


def resume(name: str, store: JobStore) -> list[Answer]:
    """Let paused jobs go on."""

    def ask(job: Job) -> Answer:
        if job.state is State.PAUSED:
            return _requeue(job, store, lambda paused: paused.to(State.QUEUED, blocked_on=""), "goes on")
        store.control(job.id, "resume")
        return _accept(job, f"is {job.state}")

    return _each(name, store, ask)


def _each(name: str, store: JobStore, ask: Callable[[Job], Answer]) -> list[Answer]:
    return [ask(job) for job in jobs_of(name, store)]


def _requeue(job: Job, store: JobStore, change: Callable[[Job], Job], done: str) -> Answer:
    """Change a job that no worker touches, under a claim like everybody else."""
    claim = store.claim(job.id, f"cli-{uuid.uuid4().hex}", ended_too=True)
    if claim is None:
        return _refuse(job, "a worker holds it; try again in a moment")
    try:
        changed = change(claim.job)
    except ValueError as error:
        store.commit(claim, claim.job)
        raise InputError(str(error)) from error
    store.commit(claim, changed)
    return _accept(job, done)


def _accept(job: Job, done: str) -> Answer:
    return Answer(job=job.id, instance=job.move.instance, done=done)


def _refuse(job: Job, why: str) -> Answer:
    return Answer(job=job.id, instance=job.move.instance, refused=why)
