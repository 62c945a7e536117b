"""The replay section: the paper's setting by default, and every mistake refused where it is declared."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.scenario.explain import sentences
from harness.scenario.replay import Replay

LINK: dict[str, Any] = {"kind": "constant", "rate": "25 KB/s"}


def test_the_default_is_the_papers_setting() -> None:
    """One user, a link of its own, nothing on the wire but the payload, no limit on time."""
    spec = Replay.model_validate({"uplinks": [LINK]})
    assert spec.uplinks[0].label == "25 KB/s"
    assert (spec.users, spec.sharing, spec.servers, spec.arrivals.kind) == ((1,), "own", 1, "closed_loop")
    wire = spec.uplinks[0].wire
    assert (wire.header_bytes, wire.propagation_s, wire.burst_bytes, wire.handshake, wire.slow_start) == (0, 0, 0, 0, 0)
    assert (spec.answer.seconds, spec.deadline_s, spec.timeout_s, spec.batching, spec.requests) == (0, *[None] * 4)


def test_relative_paths_count_from_the_scenarios_folder() -> None:
    """The folder is found again in another process, and only the path as written is part of the scenario."""
    link = {"kind": "trace", "path": "links/drive.parquet"}
    spec = Replay.model_validate({"uplinks": [link]}, context={"folder": Path("/somewhere")})
    for copy in (spec, pickle.loads(pickle.dumps(spec))):
        assert copy.files[0] == Path("/somewhere/links/drive.parquet")
    assert "somewhere" not in spec.model_dump_json()
    assert spec.uplinks[0].label == "drive"
    absolute = Replay.model_validate({"uplinks": [{**link, "path": "/a/b.parquet"}]}, context={"folder": Path("/x")})
    assert absolute.files[0] == Path("/a/b.parquet")


def test_one_number_of_users_stands_for_a_list() -> None:
    """A number, or a list of numbers to compare."""
    assert Replay.model_validate({"uplinks": [LINK], "users": 8}).users == (8,)
    assert Replay.model_validate({"uplinks": [LINK], "users": [1, 4]}).users == (1, 4)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"uplinks": []}, "at least 1 item"),
        ({"uplinks": [{"kind": "constant", "rate": 25}]}, "25 is not a number with one of the units"),
        ({"uplinks": [{"kind": "constant", "rate": "0 KB/s"}]}, "greater than 0"),
        ({"uplinks": [{"kind": "constant", "rate": "-1 KB/s"}]}, "negative"),
        ({"uplinks": [{"kind": "pigeon"}]}, "'pigeon'"),
        ({"uplinks": [LINK, LINK]}, "two uplinks are named '25 KB/s'"),
        ({"uplinks": [{**LINK, "colour": "red"}]}, "unknown key; known: kind, rate"),
        ({"uplinks": [{"kind": "trace", "path": ""}]}, "at least 1 character"),
        ({"uplinks": [{"kind": "trace", "path": "a", "at_end": "stop", "start": "random"}]}, "start: beginning"),
        ({"uplinks": [{**LINK, "wire": {"slow_start": True, "burst": "3 KB"}}]}, "not modelled together"),
        ({"uplinks": [{**LINK, "wire": {"burst": "3 KB"}}], "sharing": "processor"}, "with slow_start or burst"),
        ({"uplinks": [LINK], "users": 0}, "greater than or equal to 1"),
        ({"uplinks": [LINK], "users": [2, 2]}, "twice"),
        ({"uplinks": [LINK], "users": True}, "valid integer"),
        ({"uplinks": [LINK], "servers": 0}, "greater than or equal to 1"),
        ({"uplinks": [LINK], "deadline": "0 s"}, "greater than 0"),
        ({"uplinks": [LINK], "arrivals": {"kind": "poisson", "rate": "2"}}, "'2 /s'"),
        ({"uplinks": [LINK], "arrivals": {"kind": "recorded", "path": "a.csv"}, "requests": 3}, "drop 'requests:'"),
        ({"uplinks": [LINK], "batching": {"max_batch": 4}}, "batching.marginal: is missing"),
        ({"uplinks": [LINK], "batching": {"max_batch": 4, "marginal": 2}}, "less than or equal to 1"),
        ({"uplinks": [LINK], "batching": {"max_batch": 4, "marginal": 1, "together": ["decode"] * 2}}, "decode twice"),
        ({"uplinks": [LINK], "answer": {"size": "1 KB"}}, "needs the rate of its way back"),
    ],
)
def test_a_mistake_is_refused(parts: dict[str, Any], said: str) -> None:
    """Wrong units, ranges, kinds, keys and combinations."""
    with pytest.raises(ValidationError) as caught:
        Replay.model_validate(parts)
    assert re.search(said, "\n".join(f"{'.'.join(map(str, keys))}: {text}" for keys, text in sentences(caught.value)))
