import json

from fasim.simulator.timeline import Skip, Span, Timeline, chrome_trace


def test_chrome_traces_carry_the_profiler_fields_in_microseconds():
    timeline = Timeline([Span(3, 1, 7, "m0", "loop", 2_000_000, 3_500_000)])
    trace = chrome_trace([(1_000_000, timeline)])
    name, event = trace["traceEvents"]
    assert name == {"ph": "M", "name": "process_name", "pid": 3, "args": {"name": "SM 3"}}
    assert event == {
        "ph": "X", "cat": "loop", "name": "m0 loop", "pid": 3, "tid": 1, "ts": 3.0, "dur": 1.5,
        "args": {"block": 7},
    }  # fmt: skip
    json.dumps(trace)


def test_what_was_skipped_is_an_event_of_its_own():
    timeline = Timeline(skips=[Skip(512, 1_000_000, 9_000_000)])
    (event,) = chrome_trace([(0, timeline)])["traceEvents"]
    assert (event["name"], event["ts"], event["dur"]) == (
        "512 blocks repeat what came before", 1.0, 8.0,
    )  # fmt: skip
