"""Slots: never more jobs on a server than its limit, all permits of a step or none, and none lost for ever."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from redis import Redis

from common.store.jobs import JobStore
from common.store.keys import Keys

MINUTE = timedelta(minutes=1)
BOTH = [("s1:transfer", 2), ("s2:transfer", 1)]


def holders(redis_client: "Redis", keys: Keys, resource: str) -> set[str]:
    """The jobs that hold a permit of this resource."""
    names: list[bytes] = redis_client.zrange(keys.slots(resource), 0, -1)  # type: ignore[assignment]
    return {name.decode() for name in names}


def test_all_permits_are_taken_together(store: JobStore, redis_client: "Redis", keys: Keys) -> None:
    """The answer is empty; both are held."""
    assert store.acquire_slots("a", BOTH, MINUTE) == ""
    assert holders(redis_client, keys, "s1:transfer") == {"a"}
    assert holders(redis_client, keys, "s2:transfer") == {"a"}


def test_if_one_is_missing_none_is_taken(store: JobStore, redis_client: "Redis", keys: Keys) -> None:
    """The answer names the one that is full; what is free stays free for others."""
    assert store.acquire_slots("a", BOTH, MINUTE) == ""
    assert store.acquire_slots("b", BOTH, MINUTE) == "s2:transfer"
    assert holders(redis_client, keys, "s1:transfer") == {"a"}
    assert store.acquire_slots("c", [("s1:transfer", 2), ("s3:transfer", 1)], MINUTE) == ""


def test_a_holder_renews_its_permits(store: JobStore, redis_client: "Redis", keys: Keys) -> None:
    """Asking again neither fails nor takes another one."""
    for _ in range(3):
        assert store.acquire_slots("a", BOTH, MINUTE) == ""
    assert holders(redis_client, keys, "s2:transfer") == {"a"}


def test_permits_end_with_their_lease(store: JobStore, redis_client: "Redis", keys: Keys) -> None:
    """A job whose worker died, and that nobody takes up, does not keep a server closed."""
    assert store.acquire_slots("dead", BOTH, MINUTE) == ""
    for resource, _ in BOTH:
        redis_client.zadd(keys.slots(resource), {"dead": 1})
    assert store.acquire_slots("b", BOTH, MINUTE) == ""
    assert holders(redis_client, keys, "s1:transfer") == {"b"}


def test_a_step_without_a_slot_needs_none(store: JobStore) -> None:
    """Nothing is asked for, nothing can be full."""
    assert store.acquire_slots("a", [], MINUTE) == ""


def test_roles_and_servers_are_counted_apart(store: JobStore) -> None:
    """Transfers do not take the place of cutovers."""
    assert store.acquire_slots("a", [("s1:transfer", 1)], MINUTE) == ""
    assert store.acquire_slots("b", [("s1:cutover", 1)], MINUTE) == ""
    assert store.acquire_slots("c", [("s2:transfer", 1)], MINUTE) == ""


def test_a_smaller_limit_lets_those_go_on_that_hold_a_permit(store: JobStore) -> None:
    """Plans may have different limits on one server; a new one waits until there are few enough."""
    for job in ("a", "b", "c"):
        assert store.acquire_slots(job, [("s1:transfer", 3)], MINUTE) == ""
    assert store.acquire_slots("d", [("s1:transfer", 1)], MINUTE) == "s1:transfer"
    assert store.acquire_slots("a", [("s1:transfer", 1)], MINUTE) == ""


def test_a_job_that_got_its_permit_waits_no_more(store: JobStore, redis_client: "Redis", keys: Keys) -> None:
    """It is not in the queue of those to be woken."""
    assert store.acquire_slots("a", [("s1:transfer", 1)], MINUTE) == ""
    assert store.acquire_slots("b", [("s1:transfer", 1)], MINUTE) == "s1:transfer"
    redis_client.zadd(keys.slots("s1:transfer"), {"a": 1})
    assert store.acquire_slots("b", [("s1:transfer", 1)], MINUTE) == ""
    assert redis_client.zcard(f"{keys.namespace}:queue:s1:transfer") == 0


@pytest.mark.parametrize("limit", [1, 3])
def test_limits_hold_under_many_threads(store: JobStore, redis_client: "Redis", keys: Keys, limit: int) -> None:
    """Whatever jobs ask for, in whatever order: at no moment more than the limit are at work on any server."""
    servers = ("s1", "s2", "s3")
    working: Counter[str] = Counter()
    peaks: Counter[str] = Counter()
    guard = threading.Lock()

    def run_job(number: int) -> int:
        dice = random.Random(number)
        job, done = f"job-{number}", 0
        for _ in range(12):
            wanted = [f"{server}:transfer" for server in dice.sample(servers, 2)]
            if store.acquire_slots(job, [(resource, limit) for resource in wanted], MINUTE):
                continue
            with guard:
                working.update(wanted)
                for resource in wanted:
                    peaks[resource] = max(peaks[resource], working[resource])
            done += 1
            with guard:
                working.subtract(wanted)
            for resource in wanted:
                redis_client.zrem(keys.slots(resource), job)
        return done

    with ThreadPoolExecutor(max_workers=16) as pool:
        done = sum(pool.map(run_job, range(40)))
    assert done > 0
    assert max(peaks.values()) <= limit
