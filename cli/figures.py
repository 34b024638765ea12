"""Figures as people read them: numbers, bytes, durations."""

from __future__ import annotations


def say_about(number: float) -> str:
    """Two figures of a number: `about 2.0 million`."""
    for size, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million")):
        if number >= 0.995 * size:
            return f"about {_two_figures(number / size)}{word}"
    return f"about {_two_figures(number)}" if number >= 100 else f"about {number:.0f}"


def _two_figures(number: float) -> str:
    if number < 9.95:
        return f"{number:.1f}"
    rounded = float(f"{number:.1e}")
    return f"{rounded:,.0f}"


def say_bytes(size: float) -> str:
    """Bytes in the unit that suits them: `1.7 GB`."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.995 * unit:
            return f"{_two_figures(size / unit)} {word}"
    return f"{size:.0f} B"


def say_duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
