"""Numbers as people read them."""

from __future__ import annotations

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def bytes_text(count: int | float | None) -> str:
    """1536 → `1.50 KiB`; nothing at all → `-`."""
    if count is None:
        return "?"
    if count == 0:
        return "-"
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return (
        f"{value:.0f} {_BYTE_UNITS[unit]}" if unit == 0 else f"{_short(value)} {_BYTE_UNITS[unit]}"
    )


def _short(value: float) -> str:
    """Three digits, or all four before the point."""
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"


def time_text(seconds: float | None) -> str:
    """0.00123 → `1.23 ms`."""
    if seconds is None:
        return "?"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} us"
    return f"{seconds * 1e3:.4g} ms" if seconds < 1 else f"{seconds:.4g} s"


def count_text(count: float) -> str:
    """1.5e12 → `1.5 T`."""
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            return f"{count / scale:.3g} {prefix}"
    return f"{count:.3g} "


def percent_text(share: float | None) -> str:
    return "?" if share is None else f"{share * 100:.1f} %"


def signed_percent_text(share: float) -> str:
    return f"{share * 100:+.1f} %"


def ratio_text(ratio: float | None) -> str:
    return "?" if ratio is None else f"{ratio:.2f} x"
