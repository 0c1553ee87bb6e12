"""What a job writes on the instances that it moves, so that it can be rebuilt if Redis is lost.

JSON, because it is kept in an instance's config, where people read it.
"""

import json
from dataclasses import dataclass, replace

from pydantic import ValidationError

from common.domain.errors import InputError
from common.domain.job import Job
from common.domain.plan import Plan, Request
from common.store.codec import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Memo:
    """A job as it was when it had checked both servers, and the request that it came from."""

    job: Job
    plan_name: str
    request: Request


def write_memo(job: Job, plan: Plan) -> str:
    """The memo of a job as text; what only its present attempt needs is left out."""
    lasting = replace(job, evidence={}, operations=(), passes=(), error=None, blocked_on="")
    return json.dumps(to_plain(Memo(job=lasting, plan_name=plan.name, request=plan.request)))


def read_memo(text: str) -> Memo:
    """The memo that was written. Raises InputError if this is none."""
    try:
        return from_plain(Memo, json.loads(text))
    except (ValueError, ValidationError) as error:
        raise InputError(f"not a job's memo: {error}") from error
