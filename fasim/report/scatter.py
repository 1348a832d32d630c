"""A scatter plot as inline SVG: nothing to install, nothing to fetch, text that can be searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which people with any colour vision tell apart; then greys.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888")
MARKS = ("circle", "square", "triangle")
WIDTH, HEIGHT = 460, 360
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 46
RADIUS = 3.5


@dataclass(frozen=True)
class Dot:
    """One point: where, how it looks, and what it says under the pointer."""

    x: float
    y: float
    colour: str
    mark: str
    says: str


@dataclass(frozen=True)
class Axis:
    """A range with its name; logarithmic, or linear in shares of one printed as percent."""

    name: str
    low: float
    high: float
    logarithmic: bool = True

    def place(self, value: float) -> float:
        """Where a value lies, from 0 at the low end to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Values with a line, and what stands there."""
        if self.logarithmic:
            decades = range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)
            return [(10.0**power, f"{10.0**power:g}") for power in decades]
        span = self.high - self.low
        step = next((s for s in (0.1, 0.25, 0.5, 1.0, 2.5) if span / s <= 8), span / 4)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(n * step, f"{n * step * 100:+.0f} %") for n in range(first, last + 1)]


def decades(name: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis over whole decades that hold all of some positive values."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return Axis(name, 10.0**low, 10.0 ** max(high, low + 1))


def shares(name: str, values: Sequence[float]) -> Axis:
    """A linear axis that is symmetric about 0, from ±25 % up."""
    reach = max(0.25, *(abs(value) for value in values))
    return Axis(name, -reach * 1.05, reach * 1.05, logarithmic=False)


def scatter(x: Axis, y: Axis, dots: Sequence[Dot], lines: Sequence[tuple[float, float]]) -> str:
    """The plot as one `<svg>` element.

    Args:
        lines: each (a, b) is drawn where y is a·x + b; the first whole, the others dashed.
    """
    across, up = _scale(x, LEFT, WIDTH - RIGHT), _scale(y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(y.name)} over {escape(x.name)}">'
    ]
    for value, text in x.ticks:
        at = f"{across(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" y1="{TOP}" x2="{at}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" class="middle">{text}</text>')
    for value, text in y.ticks:
        at = f"{up(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at}" x2="{WIDTH - RIGHT}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(value) + 4:.1f}" class="end">{text}</text>')
    parts += [_line(x, y, across, up, a, b, dashed=index > 0) for index, (a, b) in enumerate(lines)]
    parts += [_dot(across(dot.x), up(dot.y), dot) for dot in dots]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" class="middle">'
        f"{escape(x.name)}</text>"
        f'<text x="14" y="{middle}" class="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(y.name)}</text></svg>"
    )
    return "\n".join(parts)


def _scale(axis: Axis, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + axis.place(value) * (end - start)


def _line(
    x: Axis,
    y: Axis,
    across: Callable[[float], float],
    up: Callable[[float], float],
    a: float,
    b: float,
    *,
    dashed: bool,
) -> str:
    """y = a·x + b between the ends of the axes; lines through 0 are straight on log axes too."""
    low, high = x.low, x.high
    if a > 0:
        low, high = max(low, (y.low - b) / a), min(high, (y.high - b) / a)
    style = "dashed" if dashed else "exact"
    return (
        f'<line class="{style}" x1="{across(low):.1f}" y1="{up(a * low + b):.1f}" '
        f'x2="{across(high):.1f}" y2="{up(a * high + b):.1f}"/>'
    )


def _dot(x: float, y: float, dot: Dot) -> str:
    said = f"<title>{escape(dot.says)}</title>"
    r = RADIUS
    if dot.mark == "square":
        shape = f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"'
        return f'{shape} fill="{dot.colour}">{said}</rect>'
    if dot.mark == "triangle":
        corners = f"{x:.1f},{y - r:.1f} {x - r:.1f},{y + r:.1f} {x + r:.1f},{y + r:.1f}"
        return f'<polygon points="{corners}" fill="{dot.colour}">{said}</polygon>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{dot.colour}">{said}</circle>'
