"""The study of GPT-2 medium as text."""

from __future__ import annotations

from fasim.report.predictions import problem_line, scenario_line
from fasim.report.quantities import percent_text, signed_percent_text, time_text
from fasim.report.tables import table
from fasim.verbs.prediction import LEVELS, MODELLED
from fasim.verbs.studies.gpt2 import PROBLEM, PROBLEMS, STANDARD, Gpt2Study, Run


def gpt2_text(study: Gpt2Study) -> str:
    """What was fixed beforehand beside the paper, every configuration, kernels by purpose."""
    parts = [
        f"GPT-2 medium's attention on {study.gpu}\n{problem_line(PROBLEMS[0])}\n"
        f"{scenario_line(study.scenario)}",
        _headlines(study),
        _configurations(study),
        *(_shares(run) for run in study.headlines),
        "* modelled; compulsory and global are exact. published: Dao et al. 2022, Figure 2 (left)\n"
        f"* its {STANDARD.gflops} GFLOP fit a batch of {study.fitting_batch:.1f}, "
        f"not of {PROBLEM.batch}; its bytes and times do fit {PROBLEM.batch}",
    ]
    return "\n\n".join(parts)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def _headlines(study: Gpt2Study) -> str:
    """A column a run, as in the paper."""
    runs = study.headlines
    header = [""]
    for run in runs:
        header += [run.prediction.name, "published", "error"]
    rows = [["GFLOP"], *([f"{level}{'*' * (level in MODELLED)}"] for level in LEVELS)]
    rows += [["without copies*"], ["time"]]
    for run in runs:
        published = run.configuration.published
        rows[0] += [f"{run.gflops:.4g}", f"{published.gflops:.3g}", ""]
        for row, level in zip(rows[1:-2], LEVELS, strict=True):
            row += [_gigabytes(run.bytes_at[level])]
            row += (
                [_gigabytes(published.dram_bytes), signed_percent_text(run.dram_error)]
                if level == "dram"
                else ["", ""]
            )
        uncopied = run.uncopied_bytes
        rows[-2] += [
            _gigabytes(uncopied),
            _gigabytes(published.dram_bytes),
            signed_percent_text(uncopied / published.dram_bytes - 1),
        ]
        rows[-1] += [
            time_text(run.time_s),
            time_text(published.time_s),
            signed_percent_text(run.time_error),
        ]
    return table(header, rows, title="As fixed beforehand")


def _configurations(study: Gpt2Study) -> str:
    rows = [
        (
            run.prediction.name,
            run.configuration.mask,
            f"{run.configuration.problem.dropout:g}",
            _gigabytes(run.bytes_at["compulsory"]),
            _gigabytes(run.bytes_at["dram"]),
            _gigabytes(run.bytes_at["global"]),
            signed_percent_text(run.dram_error),
            time_text(run.time_s),
            signed_percent_text(run.time_error),
        )
        for run in study.runs
    ]
    header = (
        "",
        "mask",
        "dropout",
        "compulsory",
        "dram*",
        "global",
        "dram error",
        "time",
        "time error",
    )
    return table(header, rows, left=2, title="Every configuration")


def _shares(run: Run) -> str:
    kernels_s = sum(share.time_s for share in run.shares)
    rows = [
        (
            share.purpose,
            str(share.kernels),
            _gigabytes(share.dram_bytes),
            time_text(share.time_s),
            percent_text(share.time_s / kernels_s),
        )
        for share in run.shares
    ]
    header = (run.prediction.name, "kernels", "dram*", "time", "share")
    return table(header, rows)
