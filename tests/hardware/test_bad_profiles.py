"""Bad profiles: each fault once, in its place, with what would work."""

import time

import pytest

from fasim.hardware import ProfileError, load, shipped

# (what, the file, every fault as line:column: path: and words of the message)
BAD = {
    "unknown field": (
        "extends: h100-sxm5\ndram:\n  bandwith: 3 TB/s\n",
        ["3:3: dram.bandwith: unknown field, did you mean bandwidth?"],
    ),
    "unknown at the top": (
        "extends: h100-sxm5\nbandwidth: 3 TB/s\nsm_cuont: 4\n",
        [
            "2:1: bandwidth: unknown field, did you mean dram.bandwidth?",
            "3:1: sm_cuont: unknown field, did you mean sm_count?",
        ],
    ),
    "python name": (
        "extends: h100-sxm5\ndram: {bandwidth_bytes_per_s: 3.0e12}\n",
        ["2:8: dram.bandwidth_bytes_per_s: unknown field, did you mean bandwidth?"],
    ),
    "computed": (
        "extends: h100-sxm5\nridge_point: 100\n",
        ["2:1: ridge_point: is computed, not set; set sm_count"],
    ),
    "wrong unit": (
        "extends: h100-sxm5\ndram: {bandwidth: 3.35 GHz}\nsm_count: 108 SM\n",
        [
            "2:19: dram.bandwidth: '3.35 GHz' has the unit 'GHz'; a bandwidth takes B/s",
            "3:11: sm_count: '108 SM' has a unit ('SM'); write a whole number such as 108",
        ],
    ),
    "no unit": (
        "extends: h100-sxm5\nclock: {boost: 1.98}\n",
        ["2:16: clock.boost: 1.98 is out of range; from 10 MHz to 100 GHz would work"],
    ),
    "missing": (
        "name: half\nclock: {boost: 2 GHz}\n",
        [
            "1:1: architecture: missing",
            "1:1: features: missing",
            "1:1: sm_count: missing",
            "1:1: sm: missing; write it with schedulers",
            "1:1: shared_memory: missing",
            "1:1: tensor_core: missing",
            "1:1: fp32: missing",
            "1:1: alu: missing",
            "1:1: sfu: missing",
            "1:1: l2: missing",
            "1:1: dram: missing",
            "1:1: launch: missing",
            "1:1: power: missing",
            "2:1: clock.tensor: missing (highest clock",
        ],
    ),
    "no value": ("extends: h100-sxm5\nsm_count:\n", ["2:10: sm_count: no value; write a whole"]),
    "impossible": (
        "extends: h100-sxm5\n"
        "sm_count: 0\n"
        "dram: {read_efficiency: 1.2, bandwidth: -3 TB/s, capacity: .nan}\n"
        "shared_memory: {max_per_block: 300 KiB}\n"
        "architecture: sm_91\n",
        [
            "2:11: sm_count: 0 is out of range; from 1 to 100000 would work",
            "3:25: dram.read_efficiency: 1.2 is out of range; from 0.001 to 1 would work",
            "3:41: dram.bandwidth: -3 TB/s is out of range",
            "3:60: dram.capacity: nan is out of range",
            "4:32: shared_memory.max_per_block: 300 KiB does not fit an SM; at most 227 KiB",
            "5:15: architecture: 'sm_91' is none of sm_80",
        ],
    ),
    "does not fit the parent": (
        "extends: h100-sxm5\nclock:\n  boost: 1 GHz\n",
        ["2:1: clock.tensor: faster than clock.boost"],
    ),
    "features": (
        "extends: h100-sxm5\nfeatures: [cp_async, wgmma, fp8]\n",
        ["2:11: features: wgmma needs tma beside it; add it"],
    ),
    "a cycle": (
        "extends: ./bad.yaml\n",
        ["1:10: extends: goes in a circle: bad.yaml → bad.yaml; end it at a complete profile"],
    ),
    "missing parent": (
        "extends: h1000\nsm_count: 3\n",
        ["1:10: extends: no GPU of the name 'h1000'; did you mean h100?"],
    ),
    "missing parent file": (
        "extends: nowhere.yaml\n",
        ["1:10: extends: ", "nowhere.yaml: no such file; give a file relative to this one"],
    ),
    "parent is a directory": ("extends: ./\n", ["1:10: extends: ", "is a directory; give"]),
    "parent is a list": ("extends: [h100]\n", ["1:10: extends: names one GPU or one file"]),
    "duplicate key": (
        "extends: h100-sxm5\nsm_count: 3\nsm_count: 4\ndram: {kind: a, kind: b}\n",
        [
            "3:1: sm_count: given twice, first on line 2; keep one",
            "4:17: dram.kind: given twice, first on line 4; keep one",
        ],
    ),
    "alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        ["1:4: profile: anchors and aliases are not read; write the value out"],
    ),
    "object tags": (
        "extends: h100-sxm5\nsm_count: !!python/object/apply:os.system ['true']\ntitle: !!str x\n",
        [
            "2:11: sm_count: the tag tag:yaml.org,2002:python/object/apply:os.system is not read",
            "3:8: title: the tag tag:yaml.org,2002:str is not read; write a plain value",
        ],
    ),
    "empty": ("", ["1:1: profile: is empty; list what the GPU has"]),
    "only a comment": ("# nothing\n", ["1:1: profile: is empty"]),
    "a list": ("- sm_count\n- 4\n", ["1:1: profile: is a list; a profile is a mapping"]),
    "a value": ("108\n", ["1:1: profile: is a single value; a profile is a mapping"]),
    "not yaml": ("a: [1\nb: 2\n", ["2:2: profile: not YAML: ", "check brackets"]),
    "a tab": ("dram:\n\tkind: x\n", ["2:1: profile: not YAML: ", "no tabs"]),
    "two documents": ("a: 1\n---\nb: 2\n", ["2:1: profile: a second document begins"]),
    "nested deep": ("a: " + "[" * 10_000, ["1:20: profile: nested more than 16 deep"]),
    "complex key": ("? [a]\n: 1\n", ["1:3: profile: a key must be a plain name"]),
    "group as value": (
        "extends: h100-sxm5\ndram: 5\nl2:\n",
        ["2:7: dram: is a group; write its fields below it", "3:4: l2: is a group"],
    ),
    "value as group": (
        "extends: h100-sxm5\nsm_count: {of: 3}\n",
        ["2:11: sm_count: is one value; write it alone or as {value: …, kind: …, source: …}"],
    ),
    "no origin": (
        "extends: h100-sxm5\nsm_count: {value: 3}\n",
        ["2:1: sm_count.kind: missing", "2:1: sm_count.source: missing"],
    ),
    "bad origin": (
        "extends: h100-sxm5\nsm_count: {valeu: 3, kind: measured, source: ''}\n",
        [
            "2:12: sm_count.valeu: unknown field, did you mean value?",
            "2:28: sm_count.kind: 'measured' is none of specification, measurement, estimate",
            "2:46: sm_count.source: says nothing",
        ],
    ),
    "binary": (bytes(range(256)), ["1:1: profile: is binary or not UTF-8"]),
    "a zero byte": (b"a: \0", ["1:1: profile: is binary"]),
    "control characters": (b"a: \x07", ["1:1: profile: holds control characters"]),
    "a huge number": ("extends: h100\nsm_count: " + "9" * 9999, ["2:11: sm_count: '999"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_profile(what, tmp_path):
    content, expected = BAD[what]
    file = tmp_path / "bad.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    lines = _faults(file)
    wanted = [f"{file}:{words}" if words[0].isdigit() else words for words in expected]
    # Words that begin with no place belong to the line before.
    places = [words for words in wanted if words.startswith(str(file))]
    assert len(lines) == len(places), lines
    for line, place in zip(lines, places, strict=True):
        assert line.startswith(place)
    for words in wanted:
        assert any(words in line for line in lines)
    assert not any("\n" in line for line in lines)


def _faults(path):
    with pytest.raises(ProfileError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [str(fault) for fault in caught.value.faults]
    return [str(fault) for fault in caught.value.faults]


def test_a_cycle_through_another_file(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("sm_count: 3\nextends: a.yaml\n")
    [line] = _faults(tmp_path / "a.yaml")
    assert line.startswith(f"{tmp_path / 'b.yaml'}:2:10: extends: goes in a circle")
    assert "a.yaml → b.yaml → a.yaml" in line


def test_a_fault_of_the_parent_is_placed_in_the_parent(tmp_path):
    (tmp_path / "parent.yaml").write_text("extends: h100-sxm5\nsm_count: -1\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: parent.yaml\nnonsense: 1\n")
    lines = _faults(child)
    assert lines[0].startswith(f"{child}:2:1: nonsense: unknown field")
    assert lines[1].startswith(f"{tmp_path / 'parent.yaml'}:2:11: sm_count: -1 is out of range")
    assert len(lines) == 2


def test_a_100_mb_file_is_refused_unread(tmp_path):
    file = tmp_path / "large.yaml"
    with file.open("wb") as out:
        out.truncate(100 * 1024 * 1024)
    start = time.perf_counter()
    [line] = _faults(file)
    assert time.perf_counter() - start < 0.05
    assert line == (
        f"{file}:1:1: profile: holds 104,857,600 bytes; a profile is at most 1,048,576 bytes"
    )


def test_what_is_no_file(tmp_path):
    assert _faults(tmp_path) == [f"{tmp_path}:1:1: profile: is a directory; give a YAML file"]
    [line] = _faults(tmp_path / "none.yaml")
    assert "1:1: profile: cannot be read: no such file" in line
    [line] = _faults("/dev/null")
    assert "1:1: profile: is not a regular file" in line


def test_one_missing_fact_of_a_complete_profile(tmp_path):
    file = tmp_path / "h100.yaml"
    lines = shipped()["h100-sxm5"].read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if line.startswith("  boost:"))
    file.write_text("".join(lines[:number] + lines[number + 1 :]))
    [line] = _faults(file)
    assert line.startswith(f"{file}:{number}:1: clock.boost: missing")
    assert "write a number and a unit, as in 1.98 GHz" in line


@pytest.mark.parametrize("name", ["h10", "nosuch", "", "a100-sxm4-80", "../x"])
def test_an_unknown_gpu_is_refused_in_one_line(name):
    [line] = _faults(name)
    assert "h100-sxm5" in line or "no such file" in line
    if name == "h10":
        assert "did you mean h100?" in line
