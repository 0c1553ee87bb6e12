"""The dramatiq broker of a worker process, hardened for wake-ups.

dramatiq's middleware for retries, delays and time limits is left out: retries and waits are in the job's record,
where a Redis outage cannot lose them. After an outage a consumer may hold messages that nobody sees; such a process is
marked as tainted, and the keeper ends it (crash-only). Only workers need a broker: scripts push the messages.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import dramatiq
import msgpack
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed, DecodeError
from redis import Redis

from common.domain.itinerary import Phase
from common.messages import QUEUES

#: Milliseconds after which a silent worker's messages are given to others.
HEARTBEAT_TIMEOUT_MS = 15_000
#: How long an idle consumer may sleep between two looks, in ms: an instance is down while a cutover waits.
_POLL_MS = {Phase.CUTOVER: 15, Phase.UNDO: 50}
_POLL_OTHERS_MS = 100
_POLL_NOTHING_TO_DO_MS = 1000

_LOST = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.BusyLoadingError,
)


class MsgpackEncoder(dramatiq.Encoder):
    """Messages are msgpack, because the scripts that push them speak it."""

    def encode(self, data: dict[str, Any]) -> bytes:
        """A message as bytes."""
        return msgpack.packb(data)  # type: ignore[no-any-return]

    def decode(self, data: bytes) -> dict[str, Any]:
        """Bytes as a message. Raises dramatiq's DecodeError."""
        try:
            return msgpack.unpackb(data)  # type: ignore[no-any-return]
        except Exception as error:
            raise DecodeError("not a msgpack message", data, error) from error


class WakeUpConsumer(_RedisConsumer):
    """Any Redis trouble means that the connection is lost, and that messages may have been lost with it."""

    broker: "WakeUpBroker"

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except _LOST as error:
            self.broker.tainted.set()
            raise ConnectionClosed(error) from error
        except ConnectionClosed:
            self.broker.tainted.set()
            raise

    def ack(self, message: Any) -> None:
        """The wake-up has been answered."""
        self._guarded(super().ack, message)

    def nack(self, message: Any) -> None:
        """The wake-up could not be answered; the pump sends another."""
        self._guarded(super().nack, message)

    def requeue(self, messages: Iterable[Any]) -> None:
        """Give wake-ups back at an orderly stop."""
        self._guarded(super().requeue, list(messages))

    def __next__(self) -> Any:
        self.timeout = self.broker.poll_ms(self.queue_name)
        return self._guarded(super().__next__)


class WakeUpBroker(RedisBroker):
    """A Redis broker without delay queues, whose maintenance is run by the keeper and by nobody else."""

    consumer_class = WakeUpConsumer

    def __init__(self, client: "Redis", namespace: str) -> None:
        super().__init__(client=client, namespace=namespace, middleware=[], heartbeat_timeout=HEARTBEAT_TIMEOUT_MS)
        self.tainted = threading.Event()
        self.nothing_to_do = False

    def declare_queue(self, queue_name: str) -> None:
        """Make a queue known. No delay queue comes with it: waiting is done in the job's record."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def poll_ms(self, queue_name: str) -> int:
        """How long an idle consumer of this queue may sleep."""
        return _POLL_NOTHING_TO_DO_MS if self.nothing_to_do else _POLL_MS.get(Phase(queue_name), _POLL_OTHERS_MS)

    def _should_do_maintenance(self, command: str) -> int:
        return int(command == "maintain")

    def maintain(self) -> None:
        """Heartbeat, and give the messages of silent workers to others. Raises redis.RedisError."""
        for queue in self.queues:
            self._dispatch("maintain")(queue)


def build_broker(client: "Redis", namespace: str) -> WakeUpBroker:
    """The broker of this process, with all queues declared and set as dramatiq's global one."""
    dramatiq.set_encoder(MsgpackEncoder())
    broker = WakeUpBroker(client, namespace)
    dramatiq.set_broker(broker)
    for queue in QUEUES:
        broker.declare_queue(queue)
    return broker
