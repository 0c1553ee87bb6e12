"""The key schema, key by key. All keys begin with the namespace, ``herder`` unless configured.

==============================  ======  ==========================================================================
key                             type    holds
==============================  ======  ==========================================================================
``NS:plans``                    zset    plan id by creation time (ms)
``NS:plan:ID``                  string  the plan, msgpack
``NS:jobs:PLAN``                list    the job ids of a plan, in order
``NS:job:ID``                   hash    ``state phase ver owner lease control record``: what scripts must see, and
                                        the whole record as msgpack
``NS:due``                      zset    job id by the time (ms) from which it may be runnable; every job that has
                                        not ended is here, so nothing can be forgotten
``NS:waiting:REMOTE``           hash    operation id -> ``job id|project``
``NS:listening``                set     remotes that some job waits on
``NS:result:REMOTE:OPERATION``  string  how an operation ended, msgpack; kept 1 h, LXD itself forgets it after 5 s
``NS:progress:REMOTE:OPERATION`` hash   volume -> bytes sent; ``rate``, ``at``; kept 1 day
``NS:slots:REMOTE:ROLE``        zset    job id by the end of its permit (ms)
``NS:queue:REMOTE:ROLE``        zset    job ids that wait for a slot, by the time they asked
``NS:first:REMOTE``             zset    job ids whose cutovers go first there, by the time until which (ms)
``NS:listener:REMOTE``          string  the worker that listens to this server, with a time to live
``NS:troubles``                 hash    remote -> ``failures`` in a row, ``since`` and ``last`` (ms), ``reason``, and
                                        whether it is set ``aside``, msgpack; gone when the server answers
``NS:stranded:REMOTE``          set     job ids that wait for a server that is set aside
``NS:prober:REMOTE``            string  the worker that probes this server, with a time to live
``NS:scheduler``                string  the scheduler that acts, with a time to live
``NS:runs``                     hash    policy -> its newest run, msgpack: ``at``, the ``plans`` of that or
                                        whether it was ``missed``, and what the next one is ``blocked_on``
``NS:alerts``                   hash    key of an alert that was told and is not over -> the alert, msgpack
``NS:workers``                  zset    worker id by its last sign of life (s)
``NS:events:PLAN``              stream  what happened, msgpack; about 10 000 entries are kept
``NS:message``                  string  counter for message ids
==============================  ======  ==========================================================================

dramatiq's own keys begin with ``NS.dramatiq:``; scripts push wake-ups there exactly as its broker does.
Scripts build keys from the namespace, as dramatiq's do: one Redis primary (with Sentinel), not Redis Cluster.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """Key names of one namespace."""

    namespace: str = "herder"

    @property
    def dramatiq(self) -> str:
        return f"{self.namespace}.dramatiq"

    @property
    def plans(self) -> str:
        return f"{self.namespace}:plans"

    @property
    def due(self) -> str:
        return f"{self.namespace}:due"

    @property
    def listening(self) -> str:
        return f"{self.namespace}:listening"

    @property
    def scheduler(self) -> str:
        return f"{self.namespace}:scheduler"

    @property
    def runs(self) -> str:
        return f"{self.namespace}:runs"

    @property
    def alerts(self) -> str:
        return f"{self.namespace}:alerts"

    @property
    def troubles(self) -> str:
        return f"{self.namespace}:troubles"

    @property
    def workers(self) -> str:
        return f"{self.namespace}:workers"

    def plan(self, plan: str) -> str:
        return f"{self.namespace}:plan:{plan}"

    def jobs(self, plan: str) -> str:
        return f"{self.namespace}:jobs:{plan}"

    def job(self, job: str) -> str:
        return f"{self.namespace}:job:{job}"

    def waiting(self, remote: str) -> str:
        return f"{self.namespace}:waiting:{remote}"

    def result(self, remote: str, operation: str) -> str:
        return f"{self.namespace}:result:{remote}:{operation}"

    def progress(self, remote: str, operation: str) -> str:
        return f"{self.namespace}:progress:{remote}:{operation}"

    def slots(self, resource: str) -> str:
        return f"{self.namespace}:slots:{resource}"

    def first(self, place: str) -> str:
        return f"{self.namespace}:first:{place}"

    def listener(self, remote: str) -> str:
        return f"{self.namespace}:listener:{remote}"

    def prober(self, remote: str) -> str:
        return f"{self.namespace}:prober:{remote}"

    def events(self, plan: str) -> str:
        return f"{self.namespace}:events:{plan}"
