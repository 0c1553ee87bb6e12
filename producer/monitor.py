"""Watches over backup policies: logs, counts and tells what begins to be wrong with them, and when it is over.

``herder scheduler`` has one; it looks while its scheduler is the one that acts. What was told is in Redis, so that the
next one does not tell it again. A message that could not be sent is sent later; after a crash one may come twice.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from apprise import Apprise
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from common.domain.alert import Alert, Cause, Change, change
from common.domain.backup import BackupPolicy
from common.domain.errors import HerderError, InputError
from common.logs import event
from common.store.jobs import JobStore
from common.store.runs import Run, RunStore
from producer import alerts
from producer.ages import Age

log = logging.getLogger("herder.monitor")

#: How often the targets are asked how old their backups are.
_LOOK = timedelta(minutes=5)
#: After which a message that could not be sent is sent again.
_RETRY = timedelta(minutes=1)


class Messenger:
    """Sends messages to URLs of apprise, which spaces or commas part. Raises InputError if they are none."""

    def __init__(self, urls: str) -> None:
        found = Apprise()
        if urls and not found.add(urls):
            hint = "https://appriseit.com/services lists them"
            raise InputError("notify: not all of it are URLs of apprise", hint=hint)
        self._ways = [Apprise(each) for each in found]

    def tell(self, title: str, body: str) -> bool:
        """Whether it got somewhere, or there is nowhere to send it.

        One broken way of several is in the log only: to try again would tell all others again.
        """
        came = [each.notify(title=title, body=body) for each in self._ways]
        return not came or any(came)


class Metrics:
    """What Prometheus reads: figures of the newest look."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        each = ["policy", "source", "target"]
        self.acts = self._gauge("herder_scheduler_acts", "1 if this scheduler is the one that acts", [])
        self.last_good = self._gauge(
            "herder_backup_last_good_timestamp_seconds", "moment of the last good backup; absent if there is none", each
        )
        self.breached = self._gauge("herder_backup_breached", "1 if it is older than its policy allows", each)
        self.last_run = self._gauge(
            "herder_policy_last_run_timestamp_seconds", "due moment of the newest run", ["policy"]
        )
        self.alerts = self._gauge("herder_policy_alerts", "how many alerts stand", ["policy", "cause"])

    def _gauge(self, name: str, meaning: str, labels: list[str]) -> Gauge:
        return Gauge(name, meaning, labels, registry=self._registry)

    def serve(self, place: str) -> int:
        """On ADDRESS:PORT from now on; the port, which 0 leaves to the kernel. Raises InputError."""
        address, _, port = place.rpartition(":")
        try:
            server, _ = start_http_server(int(port), address.strip("[]"), registry=self._registry)
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(f"metrics: cannot listen on {place!r}: {error}", hint="write ADDRESS:PORT") from error
        return int(server.server_port)

    def show_ages(self, ages: Iterable[Age]) -> None:
        """Those of all instances of all policies."""
        self.last_good.clear()
        self.breached.clear()
        for each in ages:
            labels = (each.policy, each.source, each.target)
            self.breached.labels(*labels).set(each.is_breached)
            if each.last_good:
                self.last_good.labels(*labels).set(each.last_good.timestamp())

    def show_alerts(self, policies: Iterable[BackupPolicy], standing: Iterable[Alert]) -> None:
        """How many stand; 0 is said too, so that nobody takes silence for peace."""
        self.alerts.clear()
        for policy in policies:
            for cause in Cause:
                self.alerts.labels(policy.name, cause)
        for each in standing:
            self.alerts.labels(each.policy, each.cause).inc()


@dataclass(kw_only=True)
class Monitor:
    """``ages_of`` tells how old the backups of a policy are, or raises HerderError; ``tell`` says whether it could."""

    ages_of: Callable[[BackupPolicy], list[Age]]
    tell: Callable[[str, str], bool]
    jobs: JobStore
    runs: RunStore
    metrics: Metrics
    now: Callable[[], datetime]
    _ages: list[Alert] = field(default_factory=list, init=False)
    _asked: tuple[BackupPolicy, ...] = field(default=(), init=False)
    _ask_at: datetime | None = field(default=None, init=False)
    _silent_until: datetime | None = field(default=None, init=False)

    def look(self, policies: tuple[BackupPolicy, ...]) -> None:
        """Tell what has changed. Raises redis.RedisError."""
        if self._ask_at is None or self.now() >= self._ask_at or policies != self._asked:
            self._ask(policies)
        told = self.runs.alerts()
        standing = [*self._ages, *(alert for policy in policies for alert in self._of_run(policy, told))]
        self.metrics.show_alerts(policies, standing)
        news = change(told, standing)
        if news and (self._silent_until is None or self.now() >= self._silent_until):
            self._say(news)

    def _say(self, news: Change) -> None:
        if not self.tell(news.title, news.body):
            self._silent_until = self.now() + _RETRY
            log.warning("alerts.untold count=%d reason='see above; tried again every minute'", len(news.begun))
            return
        for each in news.begun:
            log.warning("alert.begun cause=%s %s", each.cause, each.text)
        for each in news.over:
            event(log, "alert.over", cause=each.cause, policy=each.policy, subject=each.subject)
        self.runs.remember_alerts(news)

    def _ask(self, policies: tuple[BackupPolicy, ...]) -> None:
        self._ages, found = [], list[Age]()
        for policy in policies:
            try:
                found += self.ages_of(policy)
            except HerderError as error:
                text = f"policy {policy.name}: nobody can tell how old its backups are: {error.message} ({error.hint})"
                self._ages.append(Alert(cause=Cause.UNSEEN, policy=policy.name, text=text))
        self._ages += alerts.of_ages(found)
        self.metrics.show_ages(found)
        self._asked, self._ask_at = policies, self.now() + _LOOK

    def _of_run(self, policy: BackupPolicy, told: dict[str, Alert]) -> Iterator[Alert]:
        run = self.runs.newest(policy.name)
        if run is None:
            return
        self.metrics.last_run.labels(policy.name).set(run.at.timestamp())
        if run.missed:
            text = f"policy {policy.name}: its run of {run.at.isoformat()} was not made, as its window is over"
            yield Alert(cause=Cause.MISSED, policy=policy.name, text=f"{text}; the next one follows by itself")
        if run.blocked_on:
            text = f"policy {policy.name}: a run is due and waits for {run.blocked_on}"
            yield Alert(cause=Cause.WAITING, policy=policy.name, text=text)
        yield from self._failures(policy, run, told)

    def _failures(self, policy: BackupPolicy, run: Run, told: dict[str, Alert]) -> Iterator[Alert]:
        known = set(self.jobs.plans()) & set(run.plans)
        plans = [self.jobs.plan(plan) for plan in run.plans if plan in known]
        jobs = [job for plan in plans for job in self.jobs.jobs(plan.id)]
        return alerts.of_run(policy.name, plans, jobs, told)
