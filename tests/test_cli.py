"""The command line: exit statuses, strict JSON, one line for bad input, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fasim.schedules.catalog import IMPLEMENTATIONS

SMALL = "--gpu a100 --heads 2 --head-dim 64 --seqlen 512"
LEVELS = ("compulsory", "global", "l2", "dram")


def fasim(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fasim", *line.split()]
    around = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=around)


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_prediction_has_the_keys_programs_rely_on() -> None:
    done = fasim(f"predict {SMALL} --schedule standard --json")
    assert done.returncode == 0, done.stderr
    prediction = strict_json(done.stdout)
    assert prediction["schedule"] == "standard"
    assert prediction["implementation"] is None
    assert prediction["gpu"] == "a100-sxm4-80gb"
    assert prediction["time_ms"] > prediction["roofline_ms"] > 0
    assert sum(prediction["stalls"].values()) == pytest.approx(prediction["time_ms"], rel=1e-9)
    assert prediction["bound"] in prediction["stalls"]
    assert {"tensor", "sfu", "fp32"} <= prediction["flops"].keys()
    for level in LEVELS:
        total = prediction["traffic"][level]
        for kind in ("read_bytes", "write_bytes", "reduce_bytes"):
            assert total[kind] == sum(t[kind] for t in total["by_tensor"].values())
    memory = prediction["memory"]
    assert memory["fits"] is True
    assert memory["peak_bytes"] <= memory["capacity_bytes"]
    assert set(memory["by_tensor"]) == {"Q", "K", "V", "S", "P", "O"}
    for kernel in prediction["kernels"]:
        assert {"name", "grid", "blocks_per_sm", "limiter", "waves", "repeated_waves"} <= set(
            kernel
        )
        assert kernel["time_ms"] > 0
        assert set(kernel["traffic"]) == set(LEVELS)
    nominal = 4 * 2 * 512 * 512 * 64
    seconds = prediction["time_ms"] / 1e3
    assert prediction["tflops_per_s"] == pytest.approx(nominal / seconds / 1e12)
    assert prediction["problem"]["seqlen_q"] == 512
    assert prediction["scenario"] == {
        "launch": "stream",
        "l2": "warm",
        "run_length": "sustained",
        "host": "none",
    }
    assert any("a100 stands for a100-sxm4-80gb" in line for line in prediction["assumptions"])


@pytest.mark.parametrize(
    ("asked", "stored", "said"),
    [
        ("short", "short", "warm L2, short run"),
        ("sustained", "sustained", "warm L2, sustained run"),
        ("5ms", 5e-3, "warm L2, run of 5 ms"),
        ("200us", 2e-4, "warm L2, run of 200 us"),
    ],
)
def test_a_run_has_a_length(asked: str, stored: str | float, said: str) -> None:
    line = f"predict {SMALL} --schedule standard --run-length {asked}"
    assert strict_json(fasim(f"{line} --json").stdout)["scenario"]["run_length"] == stored
    assert said in fasim(line).stdout


def test_a_problem_that_does_not_fit_is_a_result() -> None:
    line = "--gpu rtx3090 --heads 4 --head-dim 64 --seqlen 65536 --schedule standard"
    done = fasim(f"predict {line} --json")
    assert done.returncode == 0, done.stderr
    prediction = strict_json(done.stdout)
    assert prediction["memory"]["fits"] is False
    assert prediction["time_ms"] is None
    assert prediction["traffic"]["global"]["read_bytes"] > 0
    assert prediction["traffic"]["dram"]["read_bytes"] is None


def test_predict_without_a_schedule_takes_the_fastest() -> None:
    fastest = strict_json(fasim(f"predict {SMALL} --batch 32 --json").stdout)
    every = strict_json(fasim(f"compare {SMALL} --batch 32 --json").stdout)["predictions"]
    assert fastest["time_ms"] == min(p["time_ms"] for p in every)


def test_compare_keeps_what_does_not_fit_and_lists_what_is_refused() -> None:
    line = "--gpu rtx3090 --gpu h100 --heads 4 --head-dim 320 --seqlen 65536"
    done = fasim(f"compare {line} --schedule standard --implementation flash-attn-2 --json")
    assert done.returncode == 0, done.stderr
    comparison = strict_json(done.stdout)
    assert [p["memory"]["fits"] for p in comparison["predictions"]] == [False, True]
    assert [r["schedule"] for r in comparison["refused"]] == ["flash-attn-2"] * 2
    assert "256" in comparison["refused"][0]["reason"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict --gpu a100x --heads 1 --head-dim 64 --seqlen 10", "did you mean a100"),
        ("predict --gpu a100x --heads 1 --head-dim 64 --seqlen 10", "--gpu: no GPU of the name"),
        (f"predict {SMALL} --schedule flash22", "did you mean flash2?"),
        (f"predict {SMALL} --implementation flashattn2", "did you mean flash-attn-2?"),
        (f"predict {SMALL} --schedule flash2 --tile 512x512", "the largest that fits is"),
        (f"predict {SMALL} --tile 12ax", "128x64"),
        (f"predict {SMALL} --tile 100x64", "multiple of 16"),
        (f"predict {SMALL} --kv-heads 3", "kv_heads must divide heads"),
        (f"predict {SMALL} --batch 0", "batch is 0"),
        (f"predict {SMALL} --dtype fp64", "choose from fp32, bf16, fp16, fp8"),
        (f"predict {SMALL} --dtype fp8", "no tensor cores for fp8"),
        (f"predict {SMALL} --dropout 1", "dropout is 1.0; it must be a probability"),
        (f"predict {SMALL} --window 3", "write it as 1024,0"),
        (f"predict {SMALL} --window 3,-2", "window is 3,-2"),
        (
            f"predict {SMALL} --implementation cudnn --window 3,0",
            "window is 3,0; it has no window",
        ),
        (f"predict {SMALL} --direction sideways", "forward, backward, both"),
        (f"predict {SMALL} --launch rocket", "stream, graph, kernel"),
        (f"predict {SMALL} --run-length long", "'long' is not a time; write a number and a unit"),
        (f"predict {SMALL} --run-length 5W", "'5W' has the unit 'W'"),
        (f"predict {SMALL} --run-length 0ms", "run_length is 0.0; choose from short, sustained"),
        ("predict-op copy --gpu l4 --elements 9 --run-length soon", "or short, or sustained"),
        (f"predict {SMALL} --level atom", "kernel, block, warp"),
        (f"predict {SMALL} --set sm_cont=3", "did you mean sm_count?"),
        (f"predict {SMALL} --set dram.bandwidth=6.7", "--set"),
        ("predict --gpu a100 --heads 1 --head-dim 64", "--seqlen"),
        ("predict --gpu / --heads 1 --head-dim 64 --seqlen 64", "directory"),
        ("validate --measured /nowhere.csv", "no such file"),
        ("validate --run --measured x.csv", "give one of them"),
        ("validate --run --suite slow", "choose from quick, full"),
        ("validate --html /nowhere/page.html", "no folder /nowhere"),
        ("validate --direction up", "choose from forward"),
        ("profiles detect --out /", "is there already"),
        ("kernels compile --arch sm_80,sm_8", "arch is 'sm_8'; choose from sm_80, sm_89"),
        ("profiles show h1000", "h100"),
        ("profiles check /nowhere.yaml", "nowhere"),
        ("predikt", "predikt"),
        (f"predict {SMALL} --heads x", "--heads"),
        (f"predict {SMALL} --schedule flash2 --num-splits 2", "it takes no --num-splits"),
        (f"predict {SMALL} --page-size 0", "page_size is 0"),
        ("kv-cache --layers 0 --kv-heads 8 --seqlen 1 --head-dim 64", "layers is 0"),
    ],
)
def test_bad_input_is_a_line_and_exit_status_2(line: str, said: str) -> None:
    done = fasim(line)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if "Usage" not in done.stderr:  # the parser's own complaints bring a line of usage
        assert len(done.stderr.strip().splitlines()) == 1


def test_help_has_examples_and_version_is_printed() -> None:
    for command in ("predict", "compare", "validate", "kv-cache", "study split-kv"):
        assert "Example" in fasim(f"{command} --help").stdout
    assert fasim("--version").stdout.startswith("fasim 0.")


def test_a_prediction_opens_at_block_and_warp_level(tmp_path: Path) -> None:
    blocks = strict_json(fasim(f"predict {SMALL} --schedule flash2 --level block --json").stdout)
    spans = blocks["blocks"]["flash2_forward"]
    assert {span["phase"] for span in spans} >= {"prologue", "loop", "epilogue"}
    warps = strict_json(fasim(f"predict {SMALL} --schedule flash2 --level warp --json").stdout)
    assert {"tensor", "sfu"} <= {event["pipe"] for event in warps["warps"]["flash2_forward"]}
    trace = tmp_path / "trace.json"
    assert fasim(f"predict {SMALL} --schedule flash2 --trace {trace}").returncode == 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert {"ph", "cat", "name", "pid", "tid", "ts", "dur"} <= set(events[-1])


def test_schedules_and_implementations_are_listed() -> None:
    names = [s["name"] for s in strict_json(fasim("schedules --json").stdout)["schedules"]]
    assert names[:6] == ["standard", "flash1", "flash2", "decode", "split_kv", "flash3"]
    assert names[6:] == ["softmax-naive", "softmax-safe", "softmax-online"]
    listed = strict_json(fasim("implementations --json").stdout)["implementations"]
    names = [i["name"] for i in listed]
    assert names == list(IMPLEMENTATIONS)
    assert len(names) == len(set(names)) >= 8
    assert all(i["source"] for i in listed)


def test_decode_takes_splits_packed_heads_and_pages() -> None:
    line = "--gpu a100 --heads 8 --kv-heads 2 --seqlen-q 1 --seqlen-k 4096 --head-dim 64"
    options = "--num-splits 3 --no-pack-gqa --page-size 16"
    prediction = strict_json(fasim(f"predict {line} --schedule split_kv {options} --json").stdout)
    assert [kernel["grid"] for kernel in prediction["kernels"]] == [[1, 3, 8, 1], [1, 8, 1]]
    assert prediction["traffic"]["global"]["by_tensor"]["page_table"]["read_bytes"] == 8 * 256 * 4
    assert "3 splits of the keys, by --num-splits" in prediction["assumptions"]
    written = strict_json(
        fasim(f"compare {line} --implementation flash-attn-2 --writes-kv --json").stdout
    )
    kernels = [kernel["name"] for kernel in written["predictions"][0]["kernels"]]
    assert kernels == ["write_cache", "split_kv", "combine"]


def test_the_cache_of_a_model_and_the_study_of_splits() -> None:
    model = "--layers 32 --batch 16 --kv-heads 8 --seqlen 8192 --head-dim 128"
    cache = strict_json(fasim(f"kv-cache {model} --gpu a100 --json").stdout)
    assert (cache["bytes"], cache["fits"]) == (16 * 2**30, True)
    assert strict_json(fasim(f"kv-cache {model} --json").stdout)["gpu"] is None
    study = strict_json(fasim("study split-kv --gpu a100 --json").stdout)
    assert study["rows"][-1]["speedup"] > 1
    assert study["crossovers"][0]["seqlen_k"] < 8192


def test_profile_commands() -> None:
    assert len(strict_json(fasim("profiles list --json").stdout)["profiles"]) == 12
    sheet = strict_json(fasim("profiles show h100 --set sm_count=264 --json").stdout)
    assert any("tensor_flops.fp16" in line for line in sheet["changes"])
    assert strict_json(fasim("profiles schema").stdout)["type"] == "object"


def test_warps_and_stages_are_options_where_an_implementation_has_them() -> None:
    problem = "--gpu h100 --heads 4 --seqlen 1024 --head-dim 128 --json"
    asked = "--schedule flash3 --tile 64x128 --warps 4 --stages 3"
    found = strict_json(fasim(f"predict {problem} {asked}").stdout)
    (kernel,) = found["kernels"]
    assert (found["tile"], kernel["warps"]) == ("64x128", 4)
    # Q 64, K and V three times 128 each, of 128 halves.
    assert kernel["shared_memory_bytes"] == 2 * 128 * (64 + 6 * 128)
    refused = fasim(f"predict {problem} --implementation cudnn --stages 3")
    assert (refused.returncode, refused.stderr.strip()) == (2, "cudnn: it takes no --stages")
    compared = strict_json(fasim(f"compare {problem} --stages 1").stdout)
    assert [p["schedule"] for p in compared["predictions"]] == ["flash2", "flash3"]


MEASURED = (
    "id,gpu,implementation,schedule,direction,dtype,batch,heads,kv_heads,seqlen_q,seqlen_k,"
    "head_dim,causal,dropout,time_ms,launch,l2,output_ok,notes",
    "A,a100,flash-attn-2,flash2,fwd,fp16,4,16,16,1024,1024,64,false,0,99,stream,warm,true,far off",
    "B,riva128,flash-attn-2,flash2,fwd,fp16,4,16,16,1024,1024,64,false,0,1,stream,warm,,no such",
)


def test_errors_and_unsupported_rows_leave_the_exit_status_alone(tmp_path: Path) -> None:
    file, page = tmp_path / "times.csv", tmp_path / "report.html"
    file.write_text("\n".join((*MEASURED, MEASURED[1][:30])), encoding="utf-8")
    done = fasim(f"validate --measured {file} --html {page} --json")
    assert done.returncode == 0, done.stderr
    report = strict_json(done.stdout)
    assert report["rows"][0]["error"] < -0.9
    assert report["unsupported"][0]["reason"].startswith("no GPU of the name 'riva128'")
    assert [fault["line"] for fault in report["unreadable"]] == [4]
    assert f"{file}:4: half-written" in done.stderr
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    printed = fasim(f"validate --measured {file} --min-seqlen 2048")
    assert (printed.returncode, printed.stdout.splitlines()[0]) == (0, "no row could be predicted")


def test_a_wrong_output_is_exit_status_1(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    file.write_text("\n".join((*MEASURED, "")).replace(",true,", ",false,"), encoding="utf-8")
    done = fasim(f"validate --measured {file}")
    assert done.returncode == 1
    assert "WRONG: the kernel's output was wrong in 1 row: A" in done.stdout


@pytest.mark.parametrize("line", ["validate --run", "profiles detect", "profiles detect --json"])
def test_without_a_gpu_it_is_a_line_and_exit_status_2(line: str, tmp_path: Path) -> None:
    done = fasim(line, PATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "GPU" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "gemm --gpu h100 --m 512 --n 512 --k 256",
        "softmax --gpu a100 --rows 512 --columns 512 --dtype bf16 --l2 cold",
        "elementwise --gpu a100 --elements 100000 --op dropout --set dram.bandwidth=1TB/s",
        "reduce --gpu a100 --rows 512 --columns 512 --op max --launch kernel",
        "norm --gpu a100 --rows 512 --columns 512 --op rms --launch graph",
        "copy --gpu rtx4090 --elements 100000 --dtype fp32 --l2 cold",
    ],
)
def test_an_operator_as_text_and_json(line: str) -> None:
    text, document = fasim(f"predict-op {line}"), fasim(f"predict-op {line} --json")
    assert text.returncode == document.returncode == 0, text.stderr + document.stderr
    found = strict_json(document.stdout)
    assert found["operator"]["kind"] == line.split()[0]
    assert found["time_ms"] > found["roofline_ms"] > 0
    assert found["intensity"]["bound"] in ("compute", "memory")
    assert f"{found['intensity']['bound']}-bound" in text.stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gemm --gpu a100 --m 0 --n 1 --k 1", "m is 0"),
        ("norm --gpu a100 --rows 1 --columns 1 --op batch", "choose from layer, rms"),
        ("copy --gpu a100 --elements 8 --dtype fp8", "choose from fp16, bf16, fp32"),
        ("norm --gpu a100 --rows 1 --columns 40000", "up to 32768 do"),
    ],
)
def test_an_operator_nobody_can_run_is_a_line(line: str, message: str) -> None:
    done = fasim(f"predict-op {line}")
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_of_operators_is_recognised(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(
        "id,gpu,operator,dtype,m,n,k,metric,value,source,notes\n"
        "A,a100-sxm4-80gb,softmax rows,fp16,4096,2048,,time_ms,0.04,me,\n",
        encoding="utf-8",
    )
    done = fasim(f"validate --measured {file} --json")
    assert done.returncode == 0, done.stderr
    (row,) = strict_json(done.stdout)["rows"]
    assert row["operator"] == "softmax"
