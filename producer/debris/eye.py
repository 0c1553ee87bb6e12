"""A scene, indexed: what belongs together, and why something may not be touched."""

from collections import defaultdict

from common.domain.instance import (
    Instance,
    guard_profile,
)
from common.domain.job import State
from producer.debris.scene import PROFILE, TEMPORARY, Found, Scene, is_temporary, job_in


class Eye:
    """A scene, indexed."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.all = [
            Found(remote, instance)
            for remote, server in sorted(scene.fleet.servers.items())
            for instance in server.instances
        ]
        self._by_job: dict[str, list[Found]] = defaultdict(list)
        self._by_uuid: dict[str, list[Found]] = defaultdict(list)
        for found in self.all:
            profiles = {job_in(PROFILE, name) for name in found.instance.profiles}
            for job in {found.instance.marks.get("job", ""), *profiles} - {""}:
                self._by_job[job].append(found)
            if uuid_of(found.instance):
                self._by_uuid[uuid_of(found.instance)].append(found)

    def of_job(self, job: str) -> list[Found]:
        """Instances with the job's mark or its guard profile."""
        return self._by_job.get(job, [])

    def same(self, found: Found) -> list[Found]:
        """Other instances that are the same machine."""
        return [each for each in self._by_uuid.get(uuid_of(found.instance), []) if each.key != found.key]

    def namesakes(self, found: Found) -> list[Found]:
        """Of the same name and with an address of it, whatever their uuid."""
        own = set(found.instance.addresses.values())
        named = (each for each in self.all if each.instance.name == found.instance.name and each.key != found.key)
        return [each for each in named if own & set(each.instance.addresses.values())]

    def twins(self, found: Found) -> list[Found]:
        """The same machine on other servers, or on other members of their cluster."""
        here = (found.remote, found.instance.location)
        return [each for each in self.same(found) if (each.remote, each.instance.location) != here]

    def originals(self, temporary: Found) -> list[Found]:
        """What LXD was moving when it made this temporary instance."""
        match = TEMPORARY.fullmatch(temporary.instance.name)
        uuids = {uuid_of(temporary.instance), match["of"] if match else ""} - {""}
        same = [each for uuid in uuids for each in self._by_uuid.get(uuid, [])]
        return [each for each in same if not is_temporary(each.instance) and not each.instance.is_guarded]

    def is_at_work(self, job: str) -> bool:
        """Whether its record says that it has not ended."""
        known = self.scene.jobs.get(job)
        return known is not None and not known.has_ended

    def how_it_stands(self, job: str) -> str:
        known = self.scene.jobs.get(job)
        return f"job {job} is {known.state}" if known else f"job {job} is not known"

    def busy(self, found: Found) -> str:
        """What its server is doing with it at this moment, ``""`` if nothing: one name, one hand."""
        running = self.scene.operations.get((found.remote, found.instance.project), ())
        on_it = (each for each in running if not each.is_finished and found.instance.name in each.instances)
        return next((f"'{each.description}' is under way on {found}" for each in on_it), "")

    def sources(self, job: str) -> list[Found]:
        """The job's source; several if a person has copied it with its marks."""
        return [each for each in self.of_job(job) if is_source(each.instance, job)]

    def origins(self, job: str) -> list[Found]:
        """Its sources; if none bears its marks any more, the same machine elsewhere, one that is not retired if any."""
        own = {each.key for each in self.of_job(job)}
        others = [twin for each in self.of_job(job) for twin in self.twins(each) if twin.key not in own]
        return self.sources(job) or [each for each in others if not each.instance.is_retired] or others

    def running_copies(self, job: str) -> list[Found]:
        """What of this job runs and is not its source, with its marks or without."""
        sources = {each.key for each in self.sources(job)}
        related = [each for of_job in self.of_job(job) for each in (of_job, *self.same(of_job))]
        return [each for each in related if each.key not in sources and each.instance.is_running]

    def hold(self, job: str) -> str:
        """Why nothing of this job may be touched; ``""`` if it may.

        A source that is guarded or stopped while no target runs is what a cutover leaves when it is interrupted: only
        who knows the protocol may go on from there.
        """
        known = self.scene.jobs.get(job)
        if known is not None and known.state is State.PARKED:
            return f"job {job} is parked and waits for you: `herder retry {job}` or `herder cancel {job}`"
        under_way = next(filter(None, map(self.busy, self.of_job(job))), "")
        if under_way or self.running_copies(job):
            return under_way
        origins = self.origins(job)
        for each in origins:
            if each.instance.is_guarded or not each.instance.is_running:
                what = "guarded" if each.instance.is_guarded else each.instance.status.lower()
                return f"its source {each} is {what} and no target runs: {RECOVER}"
        return "" if origins else self.missing_source(job)

    def missing_source(self, job: str) -> str:
        """Where its copy says that its source is, nobody could look; ``""`` if that is not so."""
        told = (each.instance.marks.get("source", "") for each in self.of_job(job))
        return next((self.unseen(place) for place in told if self.unseen(place)), "")

    def unseen(self, place: str) -> str:
        """Why ``s1:web1`` cannot be judged: nobody could look at its server. ``""`` if somebody did."""
        remote = place.partition(":")[0]
        if not place or self.scene.aliases.get(remote, remote) in self.scene.fleet.servers:
            return ""
        return f"{place} was not seen: {self.scene.unseen.get(remote, f'no remote {remote} was looked at')}"


RECOVER = "it may be in the middle of its cutover; `herder recover` takes it on"


def uuid_of(instance: Instance) -> str:
    """What tells the machine from all others, ``""`` if it has none yet."""
    return instance.config.get("volatile.uuid", "")


def is_source(instance: Instance, job: str) -> bool:
    """Whether it is what the job takes from, by its marks, or by its guard if it has none."""
    if instance.marks.get("job") == job:
        return instance.marks.get("role") == "source" or instance.marks.get("state") == "retired"
    return guard_profile(job) in instance.profiles
