"""Durations and sizes: what people write, and what they read."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.units import parse_duration, parse_rate, parse_size, render_duration, render_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("0", 0),
        ("90s", 90),
        ("500ms", 0.5),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1m30s", 90),
        ("1h 30m", 5400),
        (" 30 s ", 30),
        ("0.5h", 1800),
    ],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    """A bare number is seconds; parts add up."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "soon", "-5s", "5 parsecs", "5s later", "1:30", "5S", "1e3"])
def test_what_is_no_duration_says_how_one_is_written(text: str) -> None:
    """The message quotes what was written."""
    with pytest.raises(ValueError, match=r"is not a duration; write 30s, 5m, 2h or 500ms") as raised:
        parse_duration(text)
    assert repr(text.strip()) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("4GiB", 4 * 1024**3),
        ("4GB", 4 * 1000**3),
        ("500MB", 500_000_000),
        ("1.5GiB", 1536 * 1024**2),
        ("10kB", 10_000),
        ("1TiB", 1024**4),
        ("1EiB", 1024**6),
        (" 2 MiB ", 2 * 1024**2),
    ],
)
def test_sizes_as_lxd_writes_them(text: str, size: int) -> None:
    """GiB counts in 1024, GB in 1000, and a bare number is bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "4 gigs", "4GiBit"])
def test_what_is_no_size_says_how_one_is_written(text: str) -> None:
    """The message quotes what was written."""
    with pytest.raises(ValueError, match=r"is not a size; write 4GiB or 500MB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("200MiB/s", 200 * 1024**2), ("50 MB/s", 50_000_000), ("1GiB", 1024**3), ("65536", 65536), (" 64KiB/s ", 65536)],
)
def test_rates_as_people_write_them(text: str, rate: int) -> None:
    """A size for each second; the second need not be written."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1MiB/s", "200Mbit/s", "10MiB/min", "0", "63KiB/s"])
def test_what_is_no_rate_says_how_one_is_written(text: str) -> None:
    """Nor is one at which a transfer would look as if it stood still."""
    with pytest.raises(ValueError, match=r"is not a rate; write 200MiB/s or 50MB/s|is too slow; at least 64.0 KiB/s"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.843, "0.84 s"),
        (timedelta(seconds=9), "9.00 s"),
        (12.4, "12 s"),
        (59.9, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (timedelta(days=1, minutes=5), "24 h 5 min"),
    ],
)
def test_durations_as_people_read_them(value: timedelta | float | None, text: str) -> None:
    """Below ten seconds the hundredths are told; the seconds of an hour are not."""
    assert render_duration(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (1024**3, "1.0 GiB"),
        (5 * 1024**4, "5.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_sizes_as_people_read_them(size: int, text: str) -> None:
    """In powers of 1024, at most TiB."""
    assert render_size(size) == text


@given(st.integers(0, 10**6), st.sampled_from(["", "KiB", "MiB", "GiB", "kB", "MB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    """Whole numbers lose nothing."""
    assert parse_size(f"{number}{unit}") == number * parse_size(f"1{unit}")


@given(st.integers(0, 10**6))
def test_a_duration_survives_being_written_in_seconds(seconds: int) -> None:
    """With and without its unit."""
    assert parse_duration(f"{seconds}s") == parse_duration(str(seconds)) == timedelta(seconds=seconds)
