"""What listeners learn about operations: results, progress, and who listens to whom."""

from datetime import timedelta

from redis import Redis

from common.domain.job import Outcome
from common.domain.operation import Operation, OperationRef
from common.domain.plan import Plan
from common.store.jobs import JobStore
from common.store.keys import Keys
from common.store.operations import OperationStore
from producer.watch import read_report
from tests.builders import NOW

OFFER = OperationRef(remote="s1", id="o1")
MINUTE = timedelta(minutes=1)


def test_the_end_of_an_operation_is_kept_without_its_secrets(
    operations: OperationStore, redis_client: "Redis", keys: Keys
) -> None:
    """A migration's secrets open its data to everybody; only what steps read is stored."""
    ended = Operation(
        id="o1",
        status_code=400,
        error="No space left",
        metadata={"control": "s3cr3t", "fs": "s3cr3t", "return": 1, "fs_progress": "web1: 1GB"},
    )
    operations.complete("s1", ended)
    kept = operations.result(OFFER)
    assert kept
    assert (kept.status_code, kept.error) == (400, "No space left")
    assert kept.metadata == {"return": 1, "fs_progress": "web1: 1GB"}
    stored: bytes = redis_client.get(keys.result("s1", "o1"))  # type: ignore[assignment]
    assert b"s3cr3t" not in stored


def test_the_end_of_an_operation_is_kept_for_longer_than_the_server_knows_it(
    operations: OperationStore, redis_client: "Redis", keys: Keys
) -> None:
    """And not for ever."""
    operations.complete("s1", Operation(id="o1", status_code=200))
    assert 3000 < int(redis_client.ttl(keys.result("s1", "o1"))) <= 3600


def test_results_are_those_of_their_server(operations: OperationStore) -> None:
    """Ids are unique on one server only."""
    operations.complete("s1", Operation(id="o1", status_code=200))
    assert operations.result(OperationRef(remote="s2", id="o1")) is None


def test_progress_is_the_sum_of_the_volumes(operations: OperationStore) -> None:
    """An instance and its snapshots are sent one after the other; the rate is the last one told."""
    assert operations.progress(OFFER) == (0, 0)
    operations.note_progress(OFFER, "snap0", 1000, 10, NOW)
    operations.note_progress(OFFER, "web1", 100, 20, NOW)
    operations.note_progress(OFFER, "web1", 500, 30, NOW)
    assert operations.progress(OFFER) == (1500, 30)


def test_the_progress_of_a_waiting_job_is_in_its_report(
    plan: Plan, store: JobStore, operations: OperationStore
) -> None:
    """That of its source's side; a pass that has ended shows none."""
    claim = store.claim("p1-1", "me")
    assert claim
    ref = OperationRef(remote=plan.moves[0].source, id="o1")
    other = OperationRef(remote=plan.moves[0].target, id="o2")
    job = claim.job.taken(NOW)
    waiting = job.with_outcome(Outcome.wait("the pass", retry_in=MINUTE, operations=(other, ref)), NOW)
    store.commit(claim, waiting, delay=MINUTE)
    operations.note_progress(ref, "web1", 500, 30, NOW)
    reported = read_report("p1", store, operations).jobs[0]
    assert (reported.bytes, reported.rate, reported.blocked_on) == (500, 30, "the pass")


def test_one_worker_listens_to_a_server(operations: OperationStore, redis_client: "Redis", keys: Keys) -> None:
    """As long as it says so; another takes over when it has not for a while."""
    assert operations.take_listener("s1", "w1", MINUTE)
    assert not operations.take_listener("s1", "w2", MINUTE)
    assert operations.take_listener("s1", "w1", MINUTE), "it stays with the one that has it"
    assert operations.take_listener("s2", "w2", MINUTE), "each server by itself"
    redis_client.delete(keys.listener("s1"))
    assert operations.take_listener("s1", "w2", MINUTE)


def test_a_listener_that_stays_prolongs_its_time(operations: OperationStore, redis_client: "Redis", keys: Keys) -> None:
    """Otherwise another would take over from a worker that lives."""
    operations.take_listener("s1", "w1", timedelta(seconds=1))
    operations.take_listener("s1", "w1", MINUTE)
    assert int(redis_client.pttl(keys.listener("s1"))) > 1000


def test_a_listener_that_leaves_is_followed_at_once(operations: OperationStore) -> None:
    """Its lease need not run out first; and nobody can leave in another's place."""
    lease = timedelta(hours=1)
    assert operations.take_listener("s1", "first", lease)
    operations.leave_listener("s1", "second")
    assert not operations.take_listener("s1", "second", lease)

    operations.leave_listener("s1", "first")

    assert operations.take_listener("s1", "second", lease)
