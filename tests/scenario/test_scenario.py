"""Scenarios: what is accepted, and the one sentence for each mistake."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from harness.errors import ScenarioError
from harness.replay.sweep import refuse_unknown_stages, server_stages
from harness.scenario.load import as_given, json_schema, load, scenario_hash
from harness.scenario.replay import SERVER_STAGES
from harness.schemes.contract import MergingPoint
from harness.stock import missing, profiles_of
from tests.scenario.studies import GOOD, with_pipeline

SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_every_shipped_scenario_is_valid_and_named_after_its_file(file: Path) -> None:
    """A results folder is named after the scenario, so the file and the name agree."""
    assert load(file).name == file.stem


def test_a_list_stands_for_each_of_its_values(written: Callable[[object], Path]) -> None:
    """Two qualities are two operating points; the label has what is given and leaves out defaults."""
    scenario = load(written(GOOD))
    labels = [point.label for point in scenario.pipelines[1].operating_points()]
    assert labels == ["quality=10,merge_to=0.044", "quality=50,merge_to=0.044"]
    chroma = {"scheme": "jpeg", "points": [{"quality": 10, "subsampling": ["4:2:0", "4:4:4"]}]}
    scenario = load(written({**GOOD, "pipelines": [GOOD["pipelines"][0], chroma]}))
    labels = [point.label for point in scenario.pipelines[1].operating_points()]
    assert labels == ["quality=10", "quality=10,subsampling=4:4:4"]


def test_benchmarks_may_be_one_or_several(written: Callable[[object], Path]) -> None:
    """One with the scenario's stand-in, or several each with its own."""
    one = load(written(GOOD))
    assert [(w.name, w.stand_in) for w in one.wanted] == [("RealWorldQA", "StreetsQA")]
    several = [{"name": "MME", "stand_in": "GlimpseQA"}, {"name": "MMStar"}]
    given = {**GOOD, "benchmarks": several, "stand_in": {"backbone": "mini-onevision"}}
    del given["benchmark"]
    wanted = load(written(given)).wanted
    assert [(w.name, w.stand_in) for w in wanted] == [("MME", "GlimpseQA"), ("MMStar", None)]


def test_a_rate_arrives_in_bits_per_second(written: Callable[[object], Path]) -> None:
    """25 KB/s is 200,000 bit/s inside."""
    assert load(written(GOOD)).replay.uplinks[0].model_dump()["rate_bps"] == 200_000.0


def test_the_hash_follows_what_the_scenario_decides_and_nothing_else(written: Callable[[object], Path]) -> None:
    """Another title, order of keys or spelt-out default is the same study; another seed is not."""
    original = scenario_hash(load(written(GOOD)))
    assert scenario_hash(load(written({**dict(reversed(GOOD.items())), "title": "Another", "seed": 0}))) == original
    assert scenario_hash(load(written({**GOOD, "seed": 1}))) != original


def test_a_scenario_is_plain_data_again(written: Callable[[object], Path]) -> None:
    """What the manifest stores survives JSON."""
    given = as_given(load(written(GOOD)))
    assert json.loads(json.dumps(given)) == given


def test_the_schema_names_every_key_of_a_scenario() -> None:
    """The JSON Schema refuses unknown keys as the loader does."""
    schema = json_schema()
    assert set(GOOD) <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def _changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    scenario = copy.deepcopy(GOOD)
    place: Any = scenario
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return scenario


BROKEN = {
    "unknown key": (
        _changed(("benchmrk",), "x"),
        r":\d+: benchmrk: unknown key; did you mean 'benchmark'\? known: name, title",
    ),
    "unknown nested key": (_changed(("replay", "uplinks", 0, "rte"), 1), r"uplinks.*rte"),
    "missing key": (_changed(("backbone",), ...), "backbone: is missing"),
    "unknown benchmark": (_changed(("benchmark",), "VQA"), "unknown benchmark 'VQA'; known: .*RealWorldQA"),
    "unknown backbone": (_changed(("backbone",), "gpt"), "unknown backbone 'gpt'; known: .*mini-onevision"),
    "unknown stand-in": (_changed(("stand_in", "backbone"), "gpt"), "7: stand_in.backbone: unknown backbone 'gpt'"),
    "unknown scheme": (
        _changed(("pipelines", 0, "scheme"), "gif"),
        "pipelines.0.scheme: unknown scheme 'gif'; known: .*elic, hyperprior, jpeg",
    ),
    "quality out of range": (
        _changed(("pipelines", 1, "points", 0, "quality"), [10, 400]),
        "quality: 400 is not right: .*95",
    ),
    "quality of another type": (
        _changed(("pipelines", 1, "points", 0, "quality"), "high"),
        "quality: 'high' is not right",
    ),
    "parameter of another scheme": (
        _changed(("pipelines", 1, "points", 0, "method"), 4),
        "method: unknown key; known: .*quality",
    ),
    "parameter missing": (_changed(("pipelines", 1, "points"), [{"merge_to": 0.5}]), "quality: is missing"),
    "point given twice": (_changed(("pipelines", 1, "points", 0, "quality"), [10, 10]), "quality=10.* is given twice"),
    "share above one": (_changed(("pipelines", 1, "points", 0, "merge_to"), 4.4), "merge_to: 4.4 is not right"),
    "no pipelines": (_changed(("pipelines",), []), "pipelines: .*at least 1"),
    "pipelines of one name": (_changed(("pipelines", 1), {"scheme": "server_only"}), "are named 'server_only'; give"),
    "bare rate": (_changed(("replay", "uplinks", 0, "rate"), 25), "rate: 25 is not a number with one of the units"),
    "rate in kilograms": (_changed(("replay", "uplinks", 0, "rate"), "25 kg"), "'25 kg'"),
    "rate of zero": (_changed(("replay", "uplinks", 0, "rate"), "0 KB/s"), "rate"),
    "no uplinks": (_changed(("replay", "uplinks"), []), "uplinks"),
    "text for a number": (_changed(("seed",), "seven"), "seed: 'seven' is not right"),
    "negative seed": (_changed(("seed",), -1), "seed: -1 is not right"),
    "a name that is a path": (_changed(("name",), "../up"), "name: '../up' is not right"),
    "reference not among the pipelines": (
        _changed(("selection",), {"reference": "webp"}),
        "unknown pipeline 'webp'; known: jpeg",
    ),
    "reference with several points": (_changed(("selection",), {"reference": "jpeg"}), "'jpeg' has several points"),
    "margin that leaves nothing": (
        _changed(("selection",), {"target": 0.5, "margin": 0.5}),
        "margin: 0.5 leaves nothing of the target 0.5 to certify",
    ),
    "confidence of 95": (_changed(("selection",), {"confidence": 95.0}), "selection.confidence: 95.0 is not right"),
    "no repeats": (_changed(("measure",), {"repeats": 0}), "measure.repeats: 0 is not right"),
    "no benchmark": (_changed(("benchmark",), ...), "benchmark: is missing"),
    "a benchmark and benchmarks": (
        _changed(("benchmarks",), [{"name": "MME"}]),
        "benchmark: cannot be combined with 'benchmarks'",
    ),
    "unknown among benchmarks": (
        {**_changed(("benchmark",), ...), "benchmarks": [{"name": "MME"}, {"name": "VQA"}]},
        "benchmarks.1.name: unknown benchmark 'VQA'",
    ),
    "unknown stand-in of one": (
        {**_changed(("benchmark",), ...), "benchmarks": [{"name": "MME", "stand_in": "VQA"}]},
        "benchmarks.0.stand_in: unknown benchmark 'VQA'",
    ),
    "a benchmark twice": (
        {**_changed(("stand_in",), {}), "benchmark": None, "benchmarks": [{"name": "MME"}, {"name": "MME"}]},
        "benchmarks: MME is given twice",
    ),
    "one stand-in for several": (
        {**_changed(("benchmark",), ...), "benchmarks": [{"name": "MME"}]},
        "stand_in.benchmark: each of several benchmarks has a 'stand_in:' of its own",
    ),
    "a list at the top": ("- name: a\n", "holds no mapping"),
    "nothing": ("", "holds no mapping"),
    "not YAML": ("name: [a\n", r":2: is not YAML"),
    "a key twice": (yaml.dump(GOOD) + "name: b\n", r":\d+: the key 'name' is given twice; the first is on line \d+"),
    "a key that is a number": (yaml.dump(GOOD) + "1: a\n", "the key 1 is not text"),
    "an alias": (
        yaml.dump({**GOOD, "title": 1}).replace("title: 1", "title: *a"),
        "aliases are not used here; write out",
    ),
    "a tag that builds an object": (
        yaml.dump(GOOD) + "weights: !!python/object:os.system {}\n",
        "tags are not used here; leave",
    ),
    "two documents": ("name: a\n---\nname: b\n", ":2: a second document begins here"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_mistake_is_one_sentence_with_file_and_place(
    written: Callable[[object], Path], content: object, sentence: str
) -> None:
    """Each kind of mistake names the file, where in it, what was found and what would be right."""
    file = written(content)
    with pytest.raises(ScenarioError, match=sentence) as caught:
        load(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(str(file))


def test_every_mistake_is_reported_at_once(written: Callable[[object], Path]) -> None:
    """Two mistakes are two sentences, so that both can be corrected at once."""
    with pytest.raises(ScenarioError) as caught:
        load(written({**GOOD, "seed": -1, "benchmark": "VQA"}))
    assert len(str(caught.value).splitlines()) == 2


def test_no_mistake_hides_another(written: Callable[[object], Path]) -> None:
    """Unknown keys, wrong values, wrong points of several schemes and a tag are reported together, by line."""
    text = yaml.dump(
        {
            **GOOD,
            "benchmrk": "x",
            "seed": -1,
            "measure": {"repeat": 3, "warmup": -1},
            "pipelines": [
                {"scheme": "server_only", "nmae": "a"},
                {"scheme": "jpeg", "points": [{"quality": 400, "merge_to": 0.5}, {"quallity": 5, "merge_to": 2.0}]},
            ],
        }
    )
    with pytest.raises(ScenarioError) as caught:
        load(written(text + "weights: !!int x\n"))
    told = str(caught.value)
    for said in (
        "benchmrk: unknown key; did you mean 'benchmark'?",
        "seed: -1 is not right",
        "measure.repeat: unknown key; did you mean 'repeats'?",
        "measure.warmup: -1 is not right",
        "pipelines.0.nmae: unknown key; did you mean 'name'?",
        "points.0.quality: 400 is not right",
        "points.1.quallity: unknown key; did you mean 'quality'?",
        "points.1.merge_to: 2.0 is not right",
        "tags are not used here",
    ):
        assert said in told
    lines = [int(sentence.split(":")[1]) for sentence in told.splitlines()]
    assert lines == sorted(lines)


def _batched(*together: str, **changes: object) -> dict[str, Any]:
    batching = {"max_batch": 4, "marginal": 0.5, "together": list(together)}
    return {**GOOD, **changes, "replay": {**GOOD["replay"], "batching": batching}}


def test_a_batch_of_stages_that_there_are_not_is_refused_at_its_line(written: Callable[[object], Path]) -> None:
    """Every name that no server stage has, with the known ones; each of these is accepted."""
    load(written(_batched(*SERVER_STAGES)))
    file = written(_batched("prefil", "decode", "banana"))
    with pytest.raises(ScenarioError) as caught:
        load(file)
    lines = file.read_text().splitlines()
    for sentence, name, meant in zip(
        str(caught.value).splitlines(), ("prefil", "banana"), ("did you mean 'prefill'? ", ""), strict=True
    ):
        line = 1 + next(place for place, text in enumerate(lines) if text.strip() == f"- {name}")
        place = 2 * (name == "banana")
        assert sentence == (
            f"{file}:{line}: replay.batching.together.{place}: unknown server stage '{name}'; {meant}known: "
            f"{', '.join(sorted(SERVER_STAGES))}"
        )


def test_the_harnesss_own_server_stages_are_those_of_the_reference_runs() -> None:
    """Their schemes and models time these on the server, and no others."""
    files = (Path(__file__).parents[2] / "results" / "reference").glob("*/stages.parquet")
    timed = [server_stages(pq.read_table(file, columns=["side", "stage"])) for file in files]
    assert set().union(*timed) == set(SERVER_STAGES)


def test_stages_of_a_users_own_are_known_by_the_rows_that_have_them(written: Callable[[object], Path]) -> None:
    """A recording's from its file; those of a user's own scheme from the rows that it timed, before they replay."""
    recorded = [{"path": "server.csv", "pipeline": "jpeg", "side": "server", "machine": "m"}]
    file = written(_batched("prefill", "llm", profile=recorded))
    csv = file.with_name("server.csv")
    csv.write_text("stage,seconds\nllm,0.1\n")
    assert profiles_of(load(file))[1] == []
    csv.write_text("stage,seconds\nlanguage,0.1\n")
    (sentence,) = profiles_of(load(file))[1]
    assert sentence.startswith("replay.batching.together: unknown server stage 'llm'; known: decode, ")
    assert ", language, " in sentence
    file = written(_batched("prefill", "llm"))
    load(file, stages=["llm"])
    own = [*GOOD["pipelines"], {"scheme": "harness.schemes.fake:Fake"}]
    with pytest.raises(ScenarioError, match=r"yaml:\d+: replay\.batching\.together\.1: unknown server stage 'llm'; "):
        load(written(_batched("prefill", "llm", pipelines=own)), stages=["see"])
    spec = load(written(_batched("prefill", "llm", pipelines=own))).replay
    stages = pa.table({"side": ["device", "server"], "stage": ["llm", "see"]})
    with pytest.raises(ScenarioError, match=r"unknown server stage 'llm'; known: .*, see, vision_encode"):
        refuse_unknown_stages(spec, stages)
    refuse_unknown_stages(spec, pa.table({"side": ["server"], "stage": ["llm"]}))


def test_many_mistakes_are_counted_and_not_all_printed(written: Callable[[object], Path]) -> None:
    """The first hundred are sentences; the rest is a number."""
    with pytest.raises(ScenarioError, match="and 400 more mistakes") as caught:
        load(written({**GOOD, **{f"key{i}": i for i in range(500)}}))
    assert len(str(caught.value).splitlines()) == 101


def test_numbers_with_exponents_are_numbers(written: Callable[[object], Path]) -> None:
    """1e-3 is a target, and 010 is ten samples."""
    text = yaml.dump({**GOOD, "selection": {"reference": "server_only", "target": "T"}, "samples": "S"})
    scenario = load(written(text.replace("target: T", "target: 5e-1").replace("samples: S", "samples: 010")))
    assert (scenario.selection.target, scenario.samples) == (0.5, 10)


@pytest.mark.parametrize("key", ["timed_samples", "warmup", "repeats", "threads"])
def test_the_number_of_timed_requests_is_limited(written: Callable[[object], Path], key: str) -> None:
    """Counts are limited so that a run can end."""
    with pytest.raises(ScenarioError, match=f"measure.{key}: {10**12} is not right"):
        load(written({**GOOD, "measure": {key: 10**12}}))


def test_too_many_points_are_refused_before_they_are_made(written: Callable[[object], Path]) -> None:
    """Lists multiply: a short file can stand for more points than can be measured."""
    qualities = [1 + i % 95 for i in range(1000)]
    grid = {"quality": qualities, "merge_to": [0.5] * 1000}
    with pytest.raises(ScenarioError, match="stand for 1000000 operating points; 1000 are the most"):
        load(written({**GOOD, "pipelines": [{"scheme": "server_only"}, {"scheme": "jpeg", "points": [grid]}]}))


@pytest.mark.parametrize("character", ["\x1b", "\x00", "\n", "\u2028", "\u202e", "\x9b"])
def test_names_that_are_printed_are_lines_of_text(written: Callable[[object], Path], character: str) -> None:
    """A title, an uplink's name or a path cannot move the cursor of the terminal that it is printed on."""
    uplink = {"kind": "trace", "path": f"a{character}b", "name": f"LTE{character}"}
    with pytest.raises(ScenarioError) as caught:
        load(written({**GOOD, "title": f"A{character}study", "replay": {"uplinks": [uplink]}}))
    told = str(caught.value)
    assert len(told.splitlines()) == 3
    assert told.count("which no line of text can show") == 3
    assert told.replace("\n", "").isprintable()


def test_names_in_any_script_are_unchanged(written: Callable[[object], Path]) -> None:
    """Markup, formulas and other alphabets are names."""
    title = "[bold] $x_1$ größe Ελληνικά 東京 🚇 [/lte] :up:"
    assert load(written({**GOOD, "title": title})).title == title


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \xc3\x28"])
def test_bytes_that_are_not_text_are_refused(tmp_path: Path, content: bytes) -> None:
    """A binary file is reported as such."""
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    with pytest.raises(ScenarioError, match="is not UTF-8"):
        load(file)


def test_a_folder_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    """What cannot be read is named with the system's reason."""
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(ScenarioError, match=r"cannot be read|is not"):
            load(path)


def test_a_precision_takes_the_place_of_a_number_of_samples(written: Callable[[object], Path]) -> None:
    """It is a share, in per cent or as a number; what cannot go with it is refused."""
    assert load(written({**GOOD, "measure": {"precision": "5 %"}})).measure.precision == 0.05
    assert load(written({**GOOD, "measure": {"precision": 0.05, "at_most": 300}})).measure.at_most == 300
    for wrong, sentence in (
        ({"precision": "5 ms"}, "'5 ms' is not a share such as '5 %', from 0 to 100 %"),
        ({"precision": "0 %"}, "greater than 0"),
        ({"precision": 2}, "2 is not a share"),
        ({"at_most": 100}, "at_most needs a precision"),
        ({"precision": "5 %", "timed_samples": 12}, "timed_samples cannot be combined with a precision"),
    ):
        with pytest.raises(ScenarioError, match=sentence):
            load(written({**GOOD, "measure": wrong}))


def test_neighbours_of_merging_are_a_parameter_of_points(written: Callable[[object], Path]) -> None:
    """K is named where it is not the default, and refused where nothing merges by density peaks."""
    tofc = {"scheme": "tofc", "points": [{"codec": "lambda-0.3", "merge_to": 0.044, "neighbours": [5, 9]}]}
    labels = [point.label for point in load(written(with_pipeline(tofc))).pipelines[1].operating_points()]
    assert labels == ["codec=lambda-0.3,merge_to=0.044", "codec=lambda-0.3,merge_to=0.044,neighbours=9"]
    for pipeline, sentence in (
        ({"scheme": "raw_features", "points": [{"neighbours": 9}]}, "neighbours needs a merge_to"),
        ({"scheme": "jpeg", "points": [{"quality": 5, "neighbours": 9}]}, "neighbours needs a merge_to"),
        ({"scheme": "device_only", "points": [{"neighbours": 9}]}, "neighbours needs a merge_to"),
        ({"scheme": "tofc", "points": [{"codec": "c", "merge_to": 0.1, "neighbours": 0}]}, "neighbours"),
        ({"scheme": "visionzip", "points": [{"codec": "c", "merge_to": 0.1, "neighbours": 9}]}, "neighbours"),
    ):
        with pytest.raises(ScenarioError, match=sentence):
            load(written(with_pipeline(pipeline)))


def test_points_may_say_how_many_features_are_kept(written: Callable[[object], Path]) -> None:
    """n_c is named in place of the share; both, or neither where a scheme always reduces, are refused."""
    tofc = {"scheme": "tofc", "points": [{"codec": "lambda-0.3", "n_c": [3, 6]}]}
    points = list(load(written(with_pipeline(tofc))).pipelines[1].operating_points())
    assert [point.label for point in points] == ["codec=lambda-0.3,n_c=3", "codec=lambda-0.3,n_c=6"]
    assert [point.kept_of(144) for point in points] == [3, 6]
    for pipeline, sentence in (
        ({"scheme": "jpeg", "points": [{"quality": 5, "merge_to": 0.1, "n_c": 4}]}, "merge_to 0.1 and n_c 4 both say"),
        ({"scheme": "tofc", "points": [{"codec": "lambda-0.3"}]}, "merge_to: is missing; give the share"),
        ({"scheme": "raw_features", "points": [{"n_c": 0}]}, "n_c: 0 is not right"),
    ):
        with pytest.raises(ScenarioError, match=sentence):
            load(written(with_pipeline(pipeline)))


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({"n_c": 145}, "n_c is 145, and a patch of this backbone has 144 features"),
        ({"n_c": 6, "neighbours": [5, 64]}, None),
    ],
)
def test_more_features_than_a_patch_has_are_refused_before_anything_runs(
    written: Callable[[object], Path], point: dict[str, Any], sentence: str | None
) -> None:
    """V is that of the backbone that would run."""
    found = missing(load(written(with_pipeline({"scheme": "raw_features", "points": [point]}))))
    assert [text.partition(": ")[2] for text in found] == ([sentence] if sentence else [])


@pytest.mark.parametrize(("share", "n_c"), [(0.011, 8), (0.022, 16), (0.044, 32)])
def test_the_papers_shares_are_its_numbers_of_features(share: float, n_c: int) -> None:
    """Of 729 features a patch."""
    assert MergingPoint(merge_to=share).kept_of(729) == n_c


@pytest.mark.parametrize(
    ("assignment", "keys", "wanted"),
    [
        ("measure.repeats=2", ("measure", "repeats"), 2),
        ("samples=8", ("samples",), 8),
        ("title='a = b'", ("title",), "a = b"),
        ("pipelines.jpeg.points=[{quality: 40}]", ("pipelines", 1, "points"), [{"quality": 40}]),
        ("pipelines.1.points.0.quality=40", ("pipelines", 1, "points", 0, "quality"), 40),
        ("replay.uplinks=[{kind: constant, rate: 5 KB/s}]", ("replay", "uplinks", 0, "rate_bps"), 40_000.0),
    ],
)
def test_the_command_line_may_replace_a_value(
    written: Callable[[object], Path], assignment: str, keys: tuple[str | int, ...], wanted: object
) -> None:
    """By the path of its key; an item of a list by its place or its name."""
    found: Any = as_given(load(written(GOOD), [assignment]))
    for key in keys:
        found = found[key]
    assert found == wanted


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("repeats", "'repeats' is not an assignment"),
        ("measure..repeats=2", "is not an assignment"),
        ("measure.repeats=[2", "'measure.repeats=\\[2'"),
        ("name.first=a", "name is 'a-study', which has no parts"),
        ("pipelines.png.points=[]", "'png' is not one of the 2 items here; known: server_only, jpeg"),
        ("measure.repeats=0", "as the command line changes it: measure.repeats: 0 is not right"),
        ("measure.repeat=2", "as the command line changes it: measure.repeat: unknown key; did you mean 'repeats'"),
        ("selection.reference=gif", "as the command line changes it: selection.reference: unknown pipeline 'gif'"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_a_sentence(
    written: Callable[[object], Path], assignment: str, sentence: str
) -> None:
    """It names the argument, not a line of the file."""
    with pytest.raises(ScenarioError, match=sentence):
        load(written(GOOD), [assignment])
