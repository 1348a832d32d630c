"""The page: whole, self-contained, every row a dot at its place, text escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fasim.report.scatter import HEIGHT, LEFT, RIGHT, WIDTH, Axis, Dot, decades, scatter, shares
from fasim.report.validation_page import validation_page
from fasim.report.validations import validation_text
from fasim.verbs.measured.csv_table import UnreadableLine
from fasim.verbs.measured.measurements import Measurement
from fasim.verbs.validation import UnsupportedRow, ValidatedBytes, ValidatedRow, Validation

VOID = {"meta", "br", "circle", "rect", "line", "polygon"}


class Outline(HTMLParser):
    """Checks that elements are closed in order; collects where they would fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]
        if tag in ("script", "link", "img", "iframe"):
            self.fetched.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def measurement(id_: str = "A", gpu: str = "a100", **fields: str) -> Measurement:
    cells = {
        "batch": "4",
        "heads": "16",
        "kv_heads": "8",
        "seqlen_q": "1024",
        "seqlen_k": "1024",
        "head_dim": "64",
        "dtype": "fp16",
        "causal": "true",
        "dropout": "0",
        "launch": "stream",
        "l2": "warm",
        "source": "a paper",
        **fields,
    }
    return Measurement(id_, gpu, "flash-attn-2", "fwd", 1.0, None, cells)


def report(*rows: ValidatedRow) -> Validation:
    return Validation(
        Path("times.csv"),
        "ab" * 32,
        rows,
        (ValidatedBytes(measurement("B"), 2.0, 1.0),),
        (UnsupportedRow("U", "no <such> kernel"),),
        (UnreadableLine(7, "half-written: 3 of 18 cells"),),
        operator_rows=2,
    )


ROW = ValidatedRow(measurement(), 1.0, 1.5)


def test_the_page_is_whole_and_fetches_nothing() -> None:
    page = validation_page(report(ROW, replace(ROW, measurement=measurement("C", gpu="h100"))))
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.fetched == []
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert page.count("<svg") == 4  # two plots for each of two GPUs


def test_the_page_says_what_the_text_says() -> None:
    validation = report(ROW)
    page, text = validation_page(validation), validation_text(validation)
    for said in ("+50.0 %", "-50.0 %", "4 x 16/8 x 1024 x 1024 d64 causal", "times.csv:7: half-wr"):
        assert said in page
        assert said in text
    assert "no &lt;such&gt; kernel" in page
    assert "no <such> kernel" in text
    assert "2 rows measure no attention" in text
    assert "ab" * 32 in page
    assert "a paper" in page


def test_cells_of_the_file_are_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    row = replace(ROW, measurement=replace(measurement(source=hostile), id=hostile, gpu=hostile))
    page = validation_page(report(row))
    assert hostile not in page
    assert "&lt;script&gt;" in page


def test_a_wrong_output_comes_first() -> None:
    validation = replace(report(ROW), wrong_outputs=("A",))
    assert "Wrong outputs when these rows were measured: A" in validation_page(validation)
    assert "WRONG: the kernel's output was wrong in 1 row: A" in validation_text(validation)


def test_a_report_without_rows_is_a_page_too() -> None:
    empty = replace(report(), bytes=(), unsupported=(), unreadable=())
    assert "<svg" not in validation_page(empty)
    assert "no row could be predicted" in validation_text(empty)


def test_dots_lie_where_their_values_are() -> None:
    x, y = decades("x", [2.0, 50.0]), shares("y", [0.1])
    assert (x.low, x.high) == (1.0, 100.0)
    assert (y.place(0.0), y.place(y.high)) == (0.5, 1.0)
    drawn = scatter(x, y, [Dot(10.0, 0.0, "#000", "circle", "ten")], [(0.0, 0.0)])
    found = re.search(r'<circle cx="([0-9.]+)" cy="([0-9.]+)"', drawn)
    assert found is not None
    assert float(found[1]) == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1)
    zero = re.search(r'class="exact" x1="[0-9.]+" y1="([0-9.]+)"', drawn)
    assert zero is not None
    assert zero[1] == found[2]
    assert 0 < float(found[2]) < HEIGHT


def test_axes_hold_their_values_and_name_round_ones() -> None:
    assert [text for _, text in decades("ms", [0.02, 3.0]).ticks] == ["0.01", "0.1", "1", "10"]
    assert [text for _, text in decades("ms", [1.0]).ticks] == ["1", "10"]
    ticks = [text for _, text in shares("error", [-0.6, 0.2]).ticks]
    assert "+0 %" in ticks
    assert "-50 %" in ticks
    assert 3 <= len(ticks) <= 9
    assert len(Axis("error", -40.0, 40.0, logarithmic=False).ticks) <= 9
