"""Queue and actor names: the only contract between producer and workers.

A message carries ``job_id`` and means "this job may be runnable"; it is pushed by the scripts in ``common/store/lua``
together with the change that causes it. One queue per phase, named like the phase and like its actor, so that a
cutover, during which an instance is down, never waits behind other work.
"""

from common.domain.itinerary import Phase

#: Urgent first: while a job is in one of the first two, its instance may be down.
QUEUES = (Phase.CUTOVER, Phase.UNDO, Phase.TRANSFER, Phase.PREFLIGHT, Phase.CLEANUP)
