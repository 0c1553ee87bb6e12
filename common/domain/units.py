"""Durations, sizes and rates: parsing what people write ("30s", "4GiB", "50MB/s") and rendering what they read."""

import re
from datetime import timedelta

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGTPE]?)(i?)B?")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}

#: Bytes per second below which a transfer looks as if nothing moved any more.
SLOWEST = 64 * 1024


def parse_duration(text: str) -> timedelta:
    """``"90s"``, ``"1m30s"``, ``"2h"``, ``"500ms"``; a bare number is seconds. Raises ValueError."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return timedelta(seconds=float(text))
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text).strip():
        raise ValueError(f"{text!r} is not a duration; write 30s, 5m, 2h or 500ms")
    return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))


def parse_size(text: str) -> int:
    """LXD's sizes: ``"4GiB"`` counts in 1024, ``"4GB"`` in 1000, a bare number is bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write 4GiB or 500MB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[unit])


def parse_rate(text: str) -> int:
    """Bytes per second: ``"200MiB/s"``, or without the ``/s``; at least 64KiB/s. Raises ValueError."""
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a rate; write 200MiB/s or 50MB/s") from error
    if rate < SLOWEST:
        raise ValueError(f"{text!r} is too slow; at least {render_size(SLOWEST)}/s")
    return rate


def render_duration(value: timedelta | float | None) -> str:
    """``"0.84 s"``, ``"12 s"``, ``"3 min 20 s"``, ``"-"`` for None."""
    if value is None:
        return "-"
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 10:  # noqa: PLR2004 - below ten seconds the hundredths are what people compare
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def render_size(value: float) -> str:
    """``"1.0 GiB"``; bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - the base of the binary units
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
