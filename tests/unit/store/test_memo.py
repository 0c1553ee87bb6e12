"""What is written on servers so that a job can be rebuilt."""

from datetime import timedelta

import pytest

from common.domain.errors import InputError
from common.domain.job import Pass
from common.store.memo import read_memo, write_memo
from tests.builders import a_full_plan, a_job


def test_a_memo_tells_everything_that_lasts() -> None:
    """The move, the limits, the facts and the request; not what only the present attempt needs."""
    plan = a_full_plan()
    finished = (Pass(number=0, kind="full", took=timedelta(seconds=1)),)
    job = a_job(move=plan.moves[0], facts={"deltas": True}, evidence={"pass": 1}, passes=finished)
    memo = read_memo(write_memo(job, plan))
    assert (memo.request, memo.plan_name) == (plan.request, plan.name)
    assert (memo.job.id, memo.job.move, memo.job.facts) == (job.id, job.move, {"deltas": True})
    assert (memo.job.evidence, memo.job.passes) == ({}, ())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"job": 1}'])
def test_what_is_no_memo_is_refused(text: str) -> None:
    """Somebody may have written into the mark by hand."""
    with pytest.raises(InputError, match="not a job's memo"):
        read_memo(text)
