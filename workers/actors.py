"""The phase actors: one for each phase of an itinerary, and one for the way back.

A message only says that a job may be runnable; ``runner.advance`` finds out from the record. Actors are declared when
the worker process starts, on its broker.
"""

from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq import Actor

from common.domain.itinerary import Phase
from common.messages import QUEUES

Advance = Callable[[str], None]


def declare_actors(broker: dramatiq.Broker, advance: Advance) -> dict[Phase, Actor[Any, None]]:
    """One actor per phase, each on the queue of its name. No dramatiq option is used: see ``workers.broker``."""

    def answer_wake_up(job_id: str) -> None:
        advance(job_id)

    return {
        phase: dramatiq.actor(actor_name=phase.value, queue_name=phase.value, broker=broker)(answer_wake_up)
        for phase in QUEUES
    }
