"""Workers that come one after the other, each to die at a moment of its own."""

import signal
from typing import Any

from redis import Redis

from common.domain.itinerary import Itinerary
from common.domain.job import ENDED
from common.store.keys import Keys
from tests.acceptance.story import PATIENCE_SECONDS, Herder, Running, worker
from tests.lab import host


class Killed:
    """Workers that come one after the other, each to die; what they held is free at once, as if time had passed."""

    def __init__(self, herder: Herder, namespace: str) -> None:
        self.herder, self._namespace, self._number = herder, namespace, 0

    def strike(self, *blows: tuple[str, ...]) -> None:
        """Each is a moment, a step and how many looks or pieces later."""
        for moment, step, *look in blows:
            self._number += 1
            flag, log = self.herder.home / f"flag{self._number}", self.herder.home / "killed.log"
            options = ["--at", moment, step, "--look", *(look or ["1"]), "--flag", str(flag)]
            hit = worker(self.herder, *options, log=log)
            assert hit.wait(PATIENCE_SECONDS) == -signal.SIGKILL, f"{moment} {step}: {log.read_text()}"
            self._end_leases()

    def _end_leases(self) -> None:
        redis, keys, (job,) = Redis.from_url(self.herder.redis_url), Keys(self._namespace), self.herder.jobs()
        redis.hset(keys.job(job.id), "lease", 0)
        redis.zadd(keys.due, {job.id: 0})
        redis.delete(*(keys.listener(remote) for remote in job.move.servers))

    def ends(self, command: Running, code: int) -> Any:
        """An ordinary worker brings it to this end, and its job, which the command of a failover does not wait for."""
        successor = worker(self.herder, log=self.herder.home / "successor.log")
        try:
            told = command.wait().ended(code).json
            host.wait_until("the end of the job", lambda: all(job.state in ENDED for job in self.herder.jobs()))
            return told
        finally:
            successor.terminate()
            successor.wait(PATIENCE_SECONDS)

    def begins(self, *arguments: str) -> Running:
        """A command of which the job is there."""
        known = {job.id for job in self.herder.jobs()}
        command = self.herder.start(*arguments)

        def has_begun() -> bool:
            assert not command.is_over, command.wait()
            return {job.id for job in self.herder.jobs()} != known

        host.wait_until("the new job", has_begun)
        return command


def around(itinerary: Itinerary) -> list[tuple[str, ...]]:
    return [(moment, step.name) for step in itinerary.steps for moment in ("before", "after")]
