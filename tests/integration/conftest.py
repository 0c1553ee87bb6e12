"""Fixtures of the tests over a real Redis."""

import pytest
from redis import Redis

from common.domain.job import Job
from common.domain.plan import Plan
from common.store.events import EventStore
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from tests.builders import NOW, Clock, a_plan
from tests.integration.stage import PlayedSteps, Stage
from tests.integration.wire import Wire


@pytest.fixture
def wire(redis_client: "Redis", keys: Keys) -> Wire:
    """The queues of the test's namespace."""
    return Wire(redis_client, keys)


@pytest.fixture
def plan(store: JobStore) -> Plan:
    """Plan ``p1`` with the one job ``p1-1``, stored and queued."""
    return stored(a_plan(), store)


def stored(plan: Plan, store: JobStore) -> Plan:
    """The plan, with all its jobs created."""
    store.save_plan(plan)
    for number in range(len(plan.moves)):
        assert store.create(Job.of_move(plan, number, NOW))
    return plan


@pytest.fixture
def stage(  # noqa: PLR0917 - pytest passes fixtures by name
    store: JobStore,
    operations: OperationStore,
    events: EventStore,
    wire: Wire,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Stage:
    """Workers whose steps are played."""
    steps = PlayedSteps(clock)
    monkeypatch.setattr("workers.runner.STEPS", steps)
    return Stage(store, operations, events, wire, clock, steps)
