"""Whole worker processes and a whole Redis, killed while jobs are under way: all jobs come to their end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dramatiq
import pytest

import workers.__main__
from common.config import Settings
from common.domain.itinerary import WARM
from common.domain.job import Job, State
from common.domain.plan import Limits
from common.store.connect import connect
from common.store.events import EventStore
from common.store.jobs import JobStore
from common.store.keys import Keys
from producer.submit import submit
from tests.builders import a_plan, a_request, many_moves
from tests.integration.redis_server import RedisServer
from workers.keeper import EXIT_START_AGAIN

#: Only reached by a test that fails.
PATIENCE = 120.0
CONFIG = "remotes:\n  s1: {addr: 'https://127.0.0.1:1'}\n  s2: {addr: 'https://127.0.0.1:1'}\n"
JOBS = 12
_WORKER = [sys.executable, "-m", "tests.integration.played_worker"]
#: A command that started a worker and does something else.
_COMMAND = f"import subprocess, time; subprocess.Popen({[*_WORKER, '--with-parent']}); time.sleep(600)"


class Crew:
    """A Redis, and worker processes that are started again when they ask for it, as a supervisor would."""

    def __init__(self, directory: Path) -> None:
        self.redis = RedisServer()
        self.redis.start()
        self.directory = directory
        (directory / "config.yml").write_text(CONFIG)
        self.codes: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.keys = Keys("crew")
        client = connect(self.redis.url)
        self.store = JobStore(client, self.keys)
        self.events = EventStore(client, self.keys)
        self._log = (directory / "workers.log").open("ab")

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HERDER_REDIS_URL": self.redis.url,
            "HERDER_NAMESPACE": self.keys.namespace,
            "HERDER_THREADS": "4",
            "LXD_CONF": str(self.directory),
        }

    def start(self) -> "subprocess.Popen[bytes]":
        """One more worker."""
        process = subprocess.Popen(_WORKER, env=self.environment, stdout=self._log, stderr=self._log)
        self._processes.append(process)
        return process

    def supervise(self) -> None:
        """Start again who asked for it."""
        for process in self._processes[:]:
            if process.poll() is not None:
                self._processes.remove(process)
                self.codes.append(process.returncode)
                if process.returncode == EXIT_START_AGAIN:
                    self.start()

    def close(self) -> None:
        """End everything."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()
        self.redis.close()

    def jobs(self) -> tuple[Job, ...]:
        """The jobs of the only plan."""
        return self.store.jobs("p1")

    def done(self) -> int:
        """How many of them are done."""
        return sum(job.state is State.DONE for job in self.jobs())

    def until(self, is_so: Callable[[], object]) -> None:
        """Supervise until it is so; a test fails if it never is."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < deadline, (self.directory / "workers.log").read_text()[-4000:]
            self.supervise()
            time.sleep(0.02)

    def checkpoints(self) -> dict[str, list[str]]:
        """Job -> the steps that were checkpointed as completed, in their order."""
        found: dict[str, list[str]] = {job.id: [] for job in self.jobs()}
        for _, event in self.events.read("p1"):
            if event["outcome"] == "completed":
                found[event["job"]].append(event["step"])
        return found


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """A Redis of the test's own, and no workers yet."""
    found = Crew(tmp_path)
    yield found
    found.close()


def begin(crew: Crew) -> None:
    """A dozen jobs."""
    limits = Limits(per_source=4, per_target=4, cutovers=4)
    submit(a_plan(*many_moves(JOBS), request=a_request(limits=limits)), crew.store)


def all_steps_once(crew: Crew) -> bool:
    """Whether each job has every step of its way checkpointed exactly once, in order."""
    expected = [step.name for step in WARM.steps]
    return all(steps == expected for steps in crew.checkpoints().values())


def test_jobs_come_to_their_end_though_their_workers_are_killed(crew: Crew) -> None:
    """Whoever holds a job when it is killed: another takes over after the lease, from the checkpoint."""
    victims = [crew.start(), crew.start()]
    begin(crew)
    for share, victim in zip((2, 5), victims, strict=True):
        crew.until(lambda share=share: len(crew.events.read("p1")) > share * JOBS)  # type: ignore[misc]
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        crew.start()
    crew.until(lambda: crew.done() == JOBS)
    assert all_steps_once(crew)
    assert {job.total_attempts for job in crew.jobs()} == {0}, "a death is no fault of a step"


def test_jobs_come_to_their_end_though_redis_is_killed(crew: Crew) -> None:
    """It comes back with what it had written; workers go on, or leave with 75 and are started again."""
    crew.start()
    crew.start()
    begin(crew)
    crew.until(lambda: len(crew.events.read("p1")) > 3 * JOBS)
    crew.redis.kill()
    time.sleep(0.3)
    crew.redis.start()
    crew.until(lambda: crew.done() == JOBS)
    assert set(crew.codes) <= {EXIT_START_AGAIN}
    assert all_steps_once(crew)
    assert {job.error for job in crew.jobs()} == {None}


def test_an_orderly_stop_leaves_with_zero_and_loses_nothing(crew: Crew) -> None:
    """Steps at hand are finished; another worker goes on with the rest."""
    first = crew.start()
    begin(crew)
    crew.until(lambda: len(crew.events.read("p1")) > JOBS)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=PATIENCE) == 0
    assert crew.done() < JOBS
    crew.start()
    crew.until(lambda: crew.done() == JOBS)
    assert all_steps_once(crew)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_heard_from_the_first_job_on(
    redis_url: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    """Once a worker may hold jobs, no signal kills it between two lines; they would wait for its lease."""
    seen: list[set[int]] = []

    class Started(Exception):
        pass

    def start(_: dramatiq.Worker) -> None:
        seen.append(blocked())
        raise Started

    monkeypatch.setattr(dramatiq.Worker, "start", start)
    monkeypatch.setenv("LXD_CONF", str(tmp_path))
    before = blocked()
    try:
        with pytest.raises(Started):
            workers.__main__._serve(Settings(redis_url=redis_url, namespace=keys.namespace), with_parent=False)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert number not in before
    assert number in seen[0]


def blocked() -> set[int]:
    """The signals that wait until somebody asks for them."""
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_a_worker_of_a_command_ends_with_it(crew: Crew) -> None:
    """Even if the command was killed and could not stop it."""
    begin(crew)
    assert crew.events.read("p1") == []
    watching = crew.redis.client()
    ours = {connection["id"] for connection in watching.client_list()}
    command = subprocess.Popen([sys.executable, "-c", _COMMAND], env=crew.environment)
    crew.until(lambda: crew.events.read("p1"))
    command.kill()
    command.wait()
    crew.until(lambda: {connection["id"] for connection in watching.client_list()} <= ours)


def test_a_server_that_is_set_aside_is_probed_by_another_worker_when_its_prober_is_killed(crew: Crew) -> None:
    """And when it answers, all its jobs come to their end."""
    workers = {process.pid: process for process in (crew.start(), crew.start())}
    for _ in range(3):
        crew.store.servers.failed("s2", "s2: Connection refused")
    begin(crew)
    client = crew.redis.client()

    def prober() -> int:
        holder = client.get(crew.keys.prober("s2"))
        return int(holder.decode().split(":")[1]) if isinstance(holder, bytes) else 0

    def has_probed() -> bool:
        return prober() != 0 and crew.store.servers.troubles()["s2"].failures > 3

    crew.until(has_probed)
    first = prober()
    workers[first].send_signal(signal.SIGKILL)
    workers[first].wait()
    crew.until(lambda: prober() not in (0, first))
    probed = crew.store.servers.troubles()["s2"].failures
    crew.until(lambda: crew.store.servers.troubles()["s2"].failures > probed)
    crew.until(lambda: all("server s2 unreachable since" in job.blocked_on for job in crew.jobs()))
    assert crew.done() == 0
    assert crew.store.servers.answered("s2")
    crew.until(lambda: crew.done() == JOBS)
    assert all_steps_once(crew)
    assert {job.total_attempts for job in crew.jobs()} == {0}


def test_a_worker_without_a_redis_says_so(tmp_path: Path) -> None:
    """It is a mistake of whoever started it, not a reason to be started again."""
    environment = {**os.environ, "HERDER_REDIS_URL": "gopher://x", "LXD_CONF": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("herder worker: redis_url 'gopher://x'")
    assert "Traceback" not in ended.stderr
