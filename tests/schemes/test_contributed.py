"""For authors of schemes: the example, and a fake scheme and model."""

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from harness import catalog, measure, study, timing
from harness.data.gathered import gather
from harness.data.questions import samples
from harness.data.streetsqa import book
from harness.errors import BitstreamError, ScenarioError, SchemeError
from harness.models.contract import Answer, Untimed
from harness.models.onevision import load
from harness.models.patches import features_of, patches_of
from harness.profiling.clock import StageClock
from harness.profiling.telemetry import Telemetry
from harness.records import Side
from harness.runs.digests import changed
from harness.runs.store import Run
from harness.scenario.load import load as scenario_of
from harness.scenario.model import Measure
from harness.schemes.contract import Payload
from harness.schemes.envelope import pack, receive
from harness.schemes.fake import Fake, FakeModels, FakePoint
from harness.stock import missing, take_stock
from tests.one_request import sent_bytes
from tests.own_model import OWN_MODEL
from tests.silent import Silent

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_scheme.py"
PAGES = samples(book("test", 0)[:3], paired=False)
HERE: dict[Side, str] = {"device": "here", "server": "here"}


@pytest.fixture(scope="module")
def example() -> types.ModuleType:
    """The example's code as a module."""
    spec = importlib.util.spec_from_file_location("own_scheme_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("make_models", [FakeModels, lambda: load("mini-onevision")], ids=["fake", "mini-onevision"])
def test_the_example_is_a_scheme(example, make_models) -> None:
    """Its halves, made separately, answer a sample; parameters change bytes, damage is refused, stages are timed."""
    models, sample = make_models(), PAGES[0]
    answered = []
    for bits in (16, 9):
        point = example.MeanPoint(bits=bits)
        clocks = StageClock(), StageClock()
        data = sent_bytes(example.Mean.device_half(models, point), sample, clocks[0])
        server = example.Mean.server_half(make_models(), point)
        (answer,) = receive(server, data, [sample.question], clocks[1], kind=example.Mean.kind)
        assert isinstance(answer, Answer)
        assert tuple(clocks[0].seconds) == ("preprocess", "vision_encode", "merge", "encode")
        assert tuple(clocks[1].seconds) == ("decode", "project", "prefill", "generate")
        patches = len(data[8:-4]) // (2 * models.language().feature_dim)
        assert answer.visual_tokens == patches
        answered.append(data)
    assert len(answered[0]) == len(answered[1])
    assert answered[0] != answered[1]
    with pytest.raises(BitstreamError, match="no whole number of features"):
        receive(server, pack(Payload("mean", (b"abc",))), [sample.question], Untimed(), kind="mean")
    with pytest.raises(BitstreamError):
        receive(server, answered[0][:-1], [sample.question], Untimed(), kind="mean")


OWN_SCENARIO = """
name: own
title: Schemes and a model from outside the package
benchmark: shop/
backbone: own_model:backbone
pipelines:
  - {scheme: fake, points: [{levels: 8}]}
  - {scheme: own_scheme:Mean, points: [{bits: [9, 16]}]}
measure: {timed_samples: 2, warmup: 1, repeats: 1}
selection: {reference: fake, target: 0.5, margin: 0.4}
replay: {uplinks: [{kind: constant, rate: 1 MB/s}]}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working folder with a scheme, a model and a scenario that names both."""
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "own_model.py").write_text(OWN_MODEL, encoding="utf-8")
    mistakes = ("class NoKind(Mean): kind = None", "class NoPoint(Mean): Point = None")
    text = "\n".join(["from own_scheme import Mean", *mistakes])
    (tmp_path / "own_mistakes.py").write_text(text, encoding="utf-8")
    (tmp_path / "own_leaves.py").write_text("raise SystemExit(4)", encoding="utf-8")
    (tmp_path / "own_lacks.py").write_text("import sys\nsys.nothing", encoding="utf-8")
    (tmp_path / "shop").mkdir()
    asked = []
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(tmp_path / "shop" / f"{number}.png")
        asked.append(f"{number}.png,Is it dark?,{'no' if number > 2 else 'yes'}")
    (tmp_path / "shop" / "shop.csv").write_text("\n".join(["image,question,answer", *asked]), encoding="utf-8")
    (tmp_path / "own.yaml").write_text(OWN_SCENARIO, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(catalog.SCHEMES, "fake", "harness.schemes.fake:Fake")
    yield tmp_path
    for module in ("own_scheme", "own_model", "own_mistakes", "own_names", "own_table"):
        sys.modules.pop(module, None)


def test_the_examples_scenario_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked as any scenario is, with the module found as its first comment says."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLE.parent), *sys.path])
    scenario = scenario_of(EXAMPLE.with_suffix(".yaml"))
    assert [pipeline.name for pipeline in scenario.pipelines] == ["server_only", "jpeg", "mean"]
    assert sys.modules.pop("own_scheme").Mean.kind == "mean"


@pytest.mark.slow
def test_schemes_and_models_from_outside_the_package_are_run(own) -> None:
    """With your own pictures; the run's rows depend on their code."""
    study.run(scenario_of(own / "own.yaml"), own / "run", reporter=Silent())
    run = Run.read(own / "run")
    assert set(run.outcomes["pipeline"].to_pylist()) == {"fake", "mean"}
    assert set(run.outcomes["point"].to_pylist()) >= {"bits=9", "-"}
    assert (run.manifest.benchmarks, run.manifest.stand_ins) == (("shop.csv",), {})
    assert {"code of own_scheme", "code of own_model", "language of own_model:backbone"} <= run.manifest.digests.keys()


@pytest.mark.slow
def test_rows_depend_on_what_the_module_imports(own) -> None:
    """Also where it only renames a class of the harness, as a scheme's module or a model's may do."""
    (own / "own_table.py").write_text("STEP = 1\n")
    (own / "own_names.py").write_text("import own_table\nfrom harness.schemes.fake import Fake as Renamed\n")
    file = own / "own.yaml"
    file.write_text(file.read_text().replace("scheme: fake,", "scheme: own_names:Renamed, name: fake,"))
    stocks = []
    for text in ("STEP = 1\n", "STEP = 2\n"):
        (own / "own_table.py").write_text(text)
        stocks.append(take_stock(scenario_of(file)))
    before, after = (stock.depends["fake", "levels=8"] for stock in stocks)
    assert changed(before, after) == ["code of own_table"]
    assert {"code of own_names", "code of own_model"} <= before.keys()
    assert stocks[0].depends["mean", "bits=9"] == stocks[1].depends["mean", "bits=9"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("own_scheme:Mean", "own_scheme:Meen", "own_scheme has no 'Meen'"),
        ("own_scheme:Mean", "no_such_module:A", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("own_scheme:Mean", "own_scheme:answers", "'own_scheme:answers' is not a scheme: it has no kind, Point"),
        ("own_scheme:Mean", "'own_scheme:'", "scheme 'own_scheme:' names no object; module:object is expected"),
        ("own_scheme:Mean", "':Mean'", "scheme ':Mean' names no object; module:object is expected"),
        ("own_scheme:Mean", "own_mistakes:NoKind", "is not a scheme: its kind is None; a text is expected"),
        ("own_scheme:Mean", "own_mistakes:NoPoint", "its Point is None; a subclass of .*OperatingPoint is expected"),
        ("own_scheme:Mean", "own_leaves:A", "own_leaves cannot be imported: SystemExit: 4"),
        ("own_scheme:Mean", "own_lacks:A", "own_lacks cannot be imported: AttributeError: module 'sys' has no .*"),
        ("own_model:backbone", "own_model:FakeModels", "is not a backbone: it has no digests, features_of, patches_of"),
        ("bits: [9, 16]", "bits: [99]", "bits: 99 is not right"),
    ],
)
def test_what_is_no_scheme_or_model_is_a_sentence_with_its_line(own, old: str, new: str, sentence: str) -> None:
    """Mistakes in your own code are found when the scenario is read."""
    file = own / "own.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ScenarioError, match=sentence) as caught:
        scenario_of(file)
    assert re.match(rf"{file}:\d+: ", str(caught.value))


def test_an_own_model_whose_weights_are_absent_is_missing(own) -> None:
    """Like one of the harness's own."""
    file = own / "own.yaml"
    file.write_text(file.read_text() + "weights: absent\n")
    assert missing(scenario_of(file)) == ["own_model: its weights are not here"]


@pytest.mark.parametrize("made", ["0", "1.5", "None"])
def test_a_model_whose_numbers_are_none_is_named(own, made: str) -> None:
    """Numbers of patches and of features are whole, from 1 on."""
    text = OWN_MODEL.replace("return 16\n", f"return {made}\n").replace("return 1\n", f"return {made}\n")
    (own / "own_model.py").write_text(text, encoding="utf-8")
    for asked in (lambda: features_of("own_model:backbone"), lambda: patches_of(40, 30, "own_model:backbone")):
        with pytest.raises(SchemeError, match=rf"own_model:backbone: \w+ returned {made}; a whole number"):
            asked()


@pytest.mark.parametrize(
    ("method", "made"), [("digests", "None"), ("files", "'own.yaml'"), ("files", "{'a table': None}")]
)
def test_a_model_or_a_scheme_that_names_nothing_is_named(own, method: str, made: str) -> None:
    """A model's digests and a scheme's files are mappings."""
    names_files(own, made if method == "files" else "{}")
    if method == "digests":
        text = OWN_MODEL.replace('return {"language": "0123456789abcdef"}', f"return {made}")
        (own / "own_model.py").write_text(text, encoding="utf-8")
    with pytest.raises(SchemeError, match=rf"own_\w+:\w+: {method} returned {made}; a dict"):
        take_stock(scenario_of(own / "own.yaml"))


def test_the_files_that_a_scheme_names_may_be_texts(own) -> None:
    """As well as paths."""
    names_files(own, "{'a table': 'shop/shop.csv'}")
    assert "a table" in take_stock(scenario_of(own / "own.yaml")).depends["mean", "bits=9"]


def names_files(own: Path, made: str) -> None:
    """Makes the scenario's scheme one that returns this from ``files``."""
    lines = ("from own_scheme import Mean", "class Own(Mean):", " @classmethod", f" def files(cls, *_): return {made}")
    (own / "own_names.py").write_text("\n".join(lines), encoding="utf-8")
    file = own / "own.yaml"
    file.write_text(file.read_text().replace("own_scheme:Mean", "own_names:Own, name: mean"))


def plan_of(scheme, *points) -> measure.Plan:
    """What is measured of a scheme with the fake model."""
    halves = {
        (scheme.kind, point.label): measure.Split(
            kind=scheme.kind,
            device=scheme.device_half(FakeModels(), point),
            server=scheme.server_half(FakeModels(), point),
        )
        for point in points
    }
    gathered = gather({"StreetsQA": PAGES}, len(PAGES), 0)
    return measure.Plan(
        halves=halves,
        samples=gathered,
        sample_digests=[sample.image_id + sample.id for sample in gathered],
        depends={key: {"scheme": "fake"} for key in halves},
        patches=[1] * len(gathered),
    )


@pytest.mark.slow
def test_a_scheme_is_measured_into_a_run(tmp_path: Path, manifest) -> None:
    """Answers and times of the fake scheme are rows: each sample's, each round's, with processor time and its side."""
    plan = plan_of(Fake, FakePoint(), FakePoint(levels=4))
    schedule = Measure(timed_samples=2, repeats=3, warmup=1)
    with Run.open_or_create(tmp_path / "run", manifest(), fresh=False) as ongoing:
        measure.answer(plan, ongoing, Silent())
        timing.time(
            plan,
            ongoing,
            Silent(),
            schedule=schedule,
            seed=7,
            machines=HERE,
            device="cpu",
            telemetry=Telemetry(),
        )
        outcomes = ongoing.table("outcomes").to_pandas()
        stages = ongoing.table("stages").to_pandas()
    assert len(outcomes) == 2 * len(plan.samples)
    assert set(outcomes["payload_bytes"]) == {64 + 12}
    assert set(outcomes["visual_tokens"]) == {16}
    assert set(outcomes["answer_tokens"]) == {2}
    assert (outcomes["prompt_tokens"] > 16).all()
    assert outcomes.groupby("point")["sample"].nunique().eq(len(plan.samples)).all()
    sides = {side: set(of_side["stage"]) for side, of_side in stages.groupby("side")}
    assert sides == {
        "device": {"preprocess", "vision_encode", "encode"},
        "server": {"decode", "project", "prefill", "generate"},
    }
    assert stages.groupby(["point", "side", "stage"]).size().eq(2 * 3).all()
    assert (stages["seconds"] >= 0).all()
    assert (stages["cpu_s"] >= 0).all()
    assert stages["cpu_s"].sum() > 0
    assert set(stages["round"]) == {0, 1, 2}


class Mirrored(Fake):
    """A scheme that names a stage of its server half as one of its device half is named."""

    kind = "mirrored"

    @classmethod
    def server_half(cls, models, point):
        """The fake's half, under a stage called encode."""
        inner = Fake.server_half(models, point)

        def half(payload, questions, clock):
            with clock.stage("encode"):
                sum(range(200_000))
            return inner(payload, questions, clock)

        return half

    @classmethod
    def device_half(cls, models, point):
        """The fake's, as a payload of its own kind."""
        inner = Fake.device_half(models, point)

        def half(sample, clock):
            payload = inner(sample, clock)
            assert isinstance(payload, Payload)
            return Payload(cls.kind, payload.bodies)

        return half


@pytest.mark.slow
def test_one_stage_name_on_both_sides_is_two_stages(tmp_path: Path, manifest) -> None:
    """A stage's side is where it was timed: rows of the same name on two sides are separate."""
    plan = plan_of(Mirrored, FakePoint())
    with Run.open_or_create(tmp_path / "run", manifest(), fresh=False) as ongoing:
        timing.time(
            plan,
            ongoing,
            Silent(),
            schedule=Measure(timed_samples=1, repeats=4, warmup=1),
            seed=7,
            machines=HERE,
            device="cpu",
            telemetry=Telemetry(),
        )
        stages = ongoing.table("stages").to_pandas()
    encode = stages[stages["stage"] == "encode"].groupby("side")
    assert encode.size().to_dict() == {"device": 4, "server": 4}
    assert encode["cpu_s"].median()["server"] > encode["cpu_s"].median()["device"]


def test_the_fake_halves_take_only_what_they_need() -> None:
    """The device half needs the vision side, the server half the language side."""
    for half, asked in (("device_half", ["vision"]), ("server_half", ["language"])):
        models = FakeModels()
        getattr(Fake, half)(models, FakePoint())
        assert models.asked == asked


def test_memory_and_operations_are_rows(tmp_path: Path, manifest) -> None:
    """Each half has its weights and peak, each stage its operations; the fake scheme has neither weights nor torch."""
    plan = plan_of(Fake, FakePoint())
    with Run.open_or_create(tmp_path / "run", manifest(), fresh=False) as ongoing:
        for _ in range(2):
            measure.weigh(plan, ongoing, Silent(), seed=7, machines=HERE, device="cpu")
        rows = ongoing.table("resources").to_pandas()
    assert rows.groupby("quantity").size().to_dict()["weights_bytes"] == 2
    assert set(rows.loc[rows["quantity"] == "weights_bytes", "side"]) == {"device", "server"}
    stages = rows[rows["quantity"] == "operations"].groupby("side")["stage"].agg(set).to_dict()
    assert stages == {
        "device": {"preprocess", "vision_encode", "encode"},
        "server": {"decode", "project", "prefill", "generate"},
    }
    assert (rows.loc[rows["quantity"] != "peak_memory_bytes", "value"] == 0).all()
    assert (rows["source"] == "measured").all()
