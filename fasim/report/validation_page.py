"""A validation report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from fasim import __version__
from fasim.report.quantities import signed_percent_text
from fasim.report.scatter import COLOURS, MARKS, Dot, decades, scatter, shares
from fasim.report.validations import (
    BYTES_HEADER,
    GROUP_HEADER,
    LEGEND,
    ROW_HEADER,
    byte_rows,
    bytes_line,
    group_rows,
    left_out_lines,
    time_rows,
    unsupported_lines,
)
from fasim.verbs.measured.measurements import DIRECTIONS
from fasim.verbs.validation import ValidatedRow, Validation, shape_text

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: 2px 10px 2px 0; text-align: right; white-space: nowrap }
th.left, td.left { text-align: left }
th { border-bottom: 1px solid #888 }
tbody tr:hover { background: #f2f2f2 }
.plots { display: flex; flex-wrap: wrap; gap: 1em }
.wide { overflow-x: auto }
.wrong { color: #b00020; font-weight: bold }
svg text { font-size: 11px; fill: #444 } svg .middle { text-anchor: middle }
svg .end { text-anchor: end } svg .grid { stroke: #e4e4e4 } svg .exact { stroke: #222 }
svg .dashed { stroke: #888; stroke-dasharray: 4 3 }
.key { display: inline-block; width: 0.8em; height: 0.8em; margin: 0 0.3em 0 1em }
"""
MARK_OF = dict(zip(DIRECTIONS, MARKS, strict=True))


def validation_page(validation: Validation) -> str:
    """The whole document: figures, tables, what was left out, and where the numbers come from."""
    body = ["<h1>fasim: predicted against measured</h1>", _verdict(validation)]
    if validation.rows:
        body += [
            "<h2>Times</h2>",
            f"<p>{escape(LEGEND)}</p>",
            _table(GROUP_HEADER, group_rows(validation), left=3),
            *_plots(validation.rows),
        ]
    if validation.bytes:
        body += [
            "<h2>DRAM bytes</h2>",
            f"<p>{escape(bytes_line(validation))}</p>",
            _table(BYTES_HEADER, byte_rows(validation), left=4),
        ]
    left_out = [*unsupported_lines(validation), *left_out_lines(validation)]
    if left_out:
        body += ["<h2>Left out</h2>", _list(left_out)]
    body += ["<h2>Where the numbers come from</h2>", _list(_provenance(validation))]
    if validation.rows:
        body += [
            "<h2>Rows</h2>",
            f"<details><summary>{len(validation.rows)} times</summary>",
            _table(ROW_HEADER, time_rows(validation), left=4),
            "</details>",
        ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<title>fasim validate</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _verdict(validation: Validation) -> str:
    if not validation.agrees:
        wrong = escape(", ".join(validation.wrong_outputs))
        return f'<p class="wrong">Wrong outputs when these rows were measured: {wrong}</p>'
    checked = f"{len(validation.rows)} times and {len(validation.bytes)} byte counts compared"
    return f"<p>{checked}; errors are printed as they are.</p>"


def _plots(rows: Sequence[ValidatedRow]) -> list[str]:
    """For each GPU its times against the measured ones, and their errors over size."""
    names = sorted({row.measurement.implementation for row in rows})
    colour = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    keys = "".join(
        f'<span class="key" style="background:{colour[name]}"></span>{escape(name)}'
        for name in names
    )
    marks = ", ".join(f"{mark} {DIRECTIONS[way]}" for way, mark in MARK_OF.items())
    parts = [f"<p>{keys}<br>{marks}; dashed: ±10 %</p>"]
    for gpu in sorted({row.measurement.gpu for row in rows}):
        own = [row for row in rows if row.measurement.gpu == gpu]
        times = [time for row in own for time in (row.measured_ms, row.predicted_ms)]
        measured, predicted = decades("measured ms", times), decades("predicted ms", times)
        errors = shares("error", [row.error for row in own])
        dots = [(row, colour[row.measurement.implementation]) for row in own]
        parts += [
            f'<h3>{escape(gpu)}</h3><div class="plots">',
            scatter(
                measured,
                predicted,
                [_dot(row, row.predicted_ms, shade) for row, shade in dots],
                [(1.0, 0.0), (1.1, 0.0), (0.9, 0.0)],
            ),
            scatter(
                measured,
                errors,
                [_dot(row, row.error, shade) for row, shade in dots],
                [(0.0, 0.0), (0.0, 0.1), (0.0, -0.1)],
            ),
            "</div>",
        ]
    return parts


def _dot(row: ValidatedRow, y: float, colour: str) -> Dot:
    measured = row.measurement
    says = (
        f"{measured.id} {measured.implementation} {measured.direction} {shape_text(measured)}: "
        f"measured {row.measured_ms:.4g} ms, predicted {row.predicted_ms:.4g} ms, "
        f"{signed_percent_text(row.error)}"
    )
    return Dot(row.measured_ms, y, colour, MARK_OF[measured.direction], says)


def _provenance(validation: Validation) -> list[str]:
    """The file, the version, and who measured how many of the rows with which software."""
    measurements = [row.measurement for row in validation.rows]
    measurements += [row.measurement for row in validation.bytes]
    sources: Counter[str] = Counter(
        "; ".join(
            filter(None, (m.fields.get(name, "") for name in ("source", "software", "timer")))
        )
        or "no source given"
        for m in {m.id: m for m in measurements}.values()
    )
    return [
        f"measurements: {validation.path.name}, SHA-256 {validation.sha256}",
        f"predictions: fasim {__version__}; launch, L2 state and extras as each row states them",
        *(f"{count} of the rows: {source}" for source, count in sources.most_common()),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> str:
    def cells(tag: str, texts: Sequence[str]) -> str:
        opening = [f'<{tag} class="left">'] * left + [f"<{tag}>"] * (len(texts) - left)
        return "".join(
            f"{start}{escape(text)}</{tag}>" for start, text in zip(opening, texts, strict=True)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table><thead><tr>{cells("th", header)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _list(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"
