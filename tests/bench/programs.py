"""What both programs share: how they start and end, the place of herder's state, percentiles."""

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.errors import BenchError
from tests.lab import LabError, LabUnavailableError

OK, FAILED, NO_LAB = 0, 1, 3
EXIT_STATUS = "EXIT STATUS: 0 measured, nothing lost; 1 something was lost or went wrong; 3 no lab possible here."


def run(program: Callable[[], int]) -> int:
    """The exit status of a program, with one sentence for what went wrong."""
    try:
        return program()
    except LabUnavailableError as error:
        print(error, file=sys.stderr)
        return NO_LAB
    except (LabError, BenchError) as error:
        print(error, file=sys.stderr)
        return FAILED


@contextmanager
def state_directory(kept: Path | None) -> Iterator[Path]:
    """Where herder's Redis and logs are: a directory that is kept, or else a temporary one."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="herder-bench-") as directory:
        yield Path(directory)


def p50(values: Sequence[float]) -> float:
    """The median, to the millisecond."""
    return round(statistics.median(values), 3)


def p99(values: Sequence[float]) -> float:
    """The 99th percentile, to the millisecond; with few values close to the greatest."""
    if len(values) == 1:
        return round(values[0], 3)
    return round(statistics.quantiles(values, n=100, method="inclusive")[98], 3)
