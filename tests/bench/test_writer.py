"""What the benchmarks read from the writers' stamps."""

import pytest

from tests.bench.errors import BenchError
from tests.bench.writer import Outage, outage, read_log

SOURCE = b"1 10.00\n2 10.01\n3 10.02\n"


def test_the_gap_between_the_last_line_here_and_the_first_there_is_the_downtime() -> None:
    found = outage(SOURCE, SOURCE + b"4 12.5\n5 12.51\n")
    assert found == Outage(10.02, 12.5, lost_lines=0)
    assert found.seconds == pytest.approx(2.48)


def test_lines_that_did_not_arrive_are_lost_though_the_target_counts_on_without_a_gap() -> None:
    assert outage(SOURCE, b"1 10.00\n2 12.5\n3 12.51\n4 12.52\n").lost_lines == 2


def test_a_gap_in_the_counter_is_an_error() -> None:
    with pytest.raises(BenchError, match="line 3 follows line 1"):
        read_log(b"1 10.00\n3 10.02\n")


def test_a_torn_line_is_an_error() -> None:
    with pytest.raises(BenchError, match="middle of a line"):
        outage(SOURCE, SOURCE + b"4 12.5")


def test_a_line_without_a_stamp_is_an_error() -> None:
    with pytest.raises(BenchError, match="not a line of the writer"):
        read_log(b"1 \n")


def test_a_target_that_writes_nothing_is_an_error() -> None:
    with pytest.raises(BenchError, match="has not written on the target"):
        outage(SOURCE, SOURCE)


def test_two_writers_at_a_time_are_an_error() -> None:
    with pytest.raises(BenchError, match="at the same time"):
        outage(SOURCE, b"1 10.00\n2 10.01\n3 10.015\n")
