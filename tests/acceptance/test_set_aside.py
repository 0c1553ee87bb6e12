"""The target is down for a while: people read since when, nobody knocks at it, and then all goes on by itself."""

import re
import signal
from pathlib import Path

import pytest
from redis import Redis

from common.domain.aside import Trouble
from common.domain.job import State
from common.store.keys import Keys
from common.store.servers import ServerStore
from tests.acceptance import world
from tests.acceptance.choke import Choke
from tests.acceptance.story import DONE, Herder
from tests.acceptance.watcher import NeverTwice
from tests.acceptance.world import Wish
from tests.lab import Lab, LabServer, host

pytestmark = pytest.mark.lab

NAMES = ("one", "two", "three")
AWAY = r"server s2 is set aside: unreachable since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"


def _troubles(herder: Herder) -> dict[str, Trouble]:
    return ServerStore(Redis.from_url(herder.redis_url), Keys()).troubles()


def test_a_target_that_is_down_is_set_aside_until_it_answers_again(
    lab: Lab, s1: LabServer, s2: LabServer, home: Path
) -> None:
    """It dies while it receives three instances. They run on their source meanwhile, and no attempt is made."""
    for name in NAMES:
        world.make(s1, Wish(name=name))
        world.fill(s1, name, 8)
    with Choke(s1) as choke, NeverTwice(s1, s2):
        herder = Herder.of(lab, home).having(choke.configuration(lab, home / "conf"), COLUMNS="200")
        evacuation = herder.start("evacuate", "s1:", "--to", "s2:", "--yes")
        try:
            choke.wait_held()
            s2.kill()
            choke.release()
            host.wait_until(
                "all jobs to stand aside",
                lambda: all("server s2 unreachable since" in job.blocked_on for job in herder.jobs()),
                seconds=60,
            )
            assert re.search(AWAY, herder.run("status").ended(DONE).out)
            attempts = [job.total_attempts for job in herder.jobs()]
            probed = _troubles(herder)["s2"].failures
            host.wait_until("two probes", lambda: _troubles(herder)["s2"].failures >= probed + 2)
            assert [(job.state, job.total_attempts) for job in herder.jobs()] == [(State.WAITING, n) for n in attempts]
            assert all(world.runs(s1, name) for name in NAMES)

            s2.start()
            ended = evacuation.wait().ended(DONE)
        finally:
            choke.release()
            if not evacuation.is_over:
                evacuation.send(signal.SIGINT)
                evacuation.wait()
    assert len(re.findall(AWAY, ended.out)) == 1
    assert "server s2 is back" in ended.out
    for name in NAMES:
        world.assert_moved(s1, s2, name)
