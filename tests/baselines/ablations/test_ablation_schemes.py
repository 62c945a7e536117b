"""Every ablation, hardly trained, as a scheme of the harness; and the recipe that makes them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from baselines.ablations import schemes, training
from baselines.ablations.schemes import Ablation, Heuristic, QFormerQueries, Selective, Single, Unmerged
from baselines.ablations.training import POINTS, Budget, Lesson, lessons, train_point
from harness import catalog
from harness.data.asking import samples
from harness.data.streetsqa import book
from harness.errors import BitstreamError, CheckpointError, UnavailableError
from harness.models.contract import Untimed
from harness.models.llava import Llava, LlavaModels
from harness.models.onevision import load
from harness.profiling.clock import StageClock
from harness.schemes.envelope import receive, send
from harness.schemes.tofc import TofcPoint

TINY = Budget(feature_steps=2, answer_steps=2, pictures=2, asked=2)


@pytest.fixture(scope="module")
def models() -> Iterator[LlavaModels]:
    """The parts of the zoo's backbone on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load("mini-onevision")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def backbone(models: LlavaModels) -> Llava:
    """The whole of it."""
    return models.backbone()


@pytest.fixture(scope="module")
def kept(backbone: Llava) -> list[Lesson]:
    """Four pages, reduced by every scheme."""
    return lessons(backbone, book("train", 900_000)[:4], list(POINTS))


@pytest.fixture(scope="module")
def weights(backbone: Llava, kept: list[Lesson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the bundled one, with the first point of every scheme."""
    folder = tmp_path_factory.mktemp("weights")
    for scheme, points in POINTS.items():
        point = train_point(backbone, kept, scheme, points[0], TINY)
        point.save(folder / backbone.name / scheme.kind / points[0], "here")
    return folder


@pytest.fixture(autouse=True)
def _found_there(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "WEIGHTS", weights)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", list(POINTS), ids=lambda scheme: scheme.kind)
def test_every_ablation_answers_from_its_stream(models: LlavaModels, scheme: type[Ablation]) -> None:
    """Its stages are TOFC's, its tokens as many as are asked for, and damage to its stream is a BitstreamError."""
    assert catalog.load("scheme", scheme.kind, catalog.SCHEMES) is scheme
    point = TofcPoint(codec=POINTS[scheme][0], merge_to=0.02)
    device, server = scheme.device_half(models, point), scheme.server_half(models, point)
    sample = samples(book("test", 0)[:1], paired=False)[0]
    clocks = StageClock(), StageClock()
    data = send(device, sample, clocks[0])
    assert isinstance(data, bytes)
    (answer,) = receive(server, data, [sample.question], clocks[1], kind=scheme.kind)
    assert tuple(clocks[0].seconds) == ("preprocess", "vision_encode", "merge", "encode")
    assert tuple(clocks[1].seconds) == ("decode", "project", "prefill", "generate")
    n_h, n_w = models.vision().preprocess(sample.image()).layout.grid
    assert answer.visual_tokens == 3 * (n_h * n_w + 1)
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BitstreamError):
        receive(server, bytes(damaged), [sample.question], Untimed(), kind=scheme.kind)


def test_each_is_asked_the_same_and_sees_its_own(kept: list[Lesson]) -> None:
    """The same pages at the same n_c; reducers differ, codecs over one reducer share its features."""
    assert [lesson.n_clusters for lesson in kept] == [6, 3, 6, 3]
    seen = kept[0].of_scheme
    assert seen["tofc_selective"] is seen["tofc_single"] is seen["tofc_heuristic"]
    shapes = {tuple(y_PCD.shape[1:]) for name, y_PCD in seen.items() if name != "qformer"}
    assert shapes == {(6, 160)}
    assert seen["qformer"].shape[1] == 144
    merged = [seen[name] for name in ("tofc_single", "tofc_unmerged", "visionzip", "visionzip_merging")]
    assert all(not torch.equal(one, other) for n, one in enumerate(merged) for other in merged[:n])


def test_training_moves_projector_and_qformer_and_leaves_the_backbone(backbone: Llava, kept: list[Lesson]) -> None:
    """What the paper trains besides the codec is trained; the frozen rest, and the backbone's projector, stay."""
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    torch.manual_seed(0)
    start = QFormerQueries.new_reducer(backbone.feature_dim)
    found = train_point(backbone, kept, QFormerQueries, POINTS[QFormerQueries][0], TINY)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.model.state_dict().items())
    assert not torch.equal(found.projector.linear_1.weight, backbone.projector.linear_1.weight)
    assert isinstance(start, torch.nn.Module)
    assert found.reducer is not None
    assert not torch.equal(found.reducer.get_parameter("queries_CH"), start.get_parameter("queries_CH"))


def test_the_same_seed_gives_the_same_point(backbone: Llava, kept: list[Lesson]) -> None:
    """Whatever was trained before it."""
    first, again = (train_point(backbone, kept, Unmerged, "lambda-0.2", TINY) for _ in range(2))
    assert first.codec.frozen.digest == again.codec.frozen.digest


def test_an_unknown_point_lists_the_known_ones(models: LlavaModels) -> None:
    """A scenario that names a point that nobody trained is told which there are."""
    sentence = r"tofc_heuristic: unknown codec 'bits-9'; did you mean 'bits-3'\? known: bits-3"
    for half in (Heuristic.device_half, Heuristic.server_half):
        with pytest.raises(UnavailableError, match=sentence):
            half(models, TofcPoint(codec="bits-9", merge_to=0.02))


def both_halves(models: LlavaModels, point: TofcPoint) -> None:
    """Makes those of the learned queries."""
    QFormerQueries.device_half(models, point)
    QFormerQueries.server_half(models, point)


def test_a_damaged_point_is_refused(models: LlavaModels, weights: Path) -> None:
    """Each of its files in turn, by its name."""
    point = POINTS[QFormerQueries][0]
    folder = weights / models.name / QFormerQueries.kind / point
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=path.name):
            both_halves(models, TofcPoint(codec=point, merge_to=0.02))
        path.write_bytes(whole)


@pytest.mark.slow
def test_the_recipe_makes_what_is_missing_and_nothing_twice(
    backbone: Llava, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Points land one by one; a second run finds them, and its card has their bytes."""
    monkeypatch.setattr(
        training, "POINTS", {Single: ("lambda-0.2",), Selective: ("lambda-0.2",), Heuristic: ("bits-3",)}
    )
    monkeypatch.setattr(training, "_HELD_OUT", 1)
    steps = ["--pictures", "3", "--feature-steps", "1", "--answer-steps", "1"]
    training.main(["--out", str(tmp_path), "--schemes", "tofc_single", *steps])
    training.main(["--out", str(tmp_path), *steps])
    training.main(["--out", str(tmp_path), *steps])
    lines = [line for line in capsys.readouterr().out.splitlines() if "to be trained" in line]
    assert lines == [
        "1 of 1 points are to be trained",
        "2 of 3 points are to be trained",
        "0 of 3 points are to be trained",
    ]
    card = (tmp_path / "card.md").read_text()
    assert [line.split("|")[1].strip() for line in card.splitlines() if "lambda-" in line or "bits-" in line] == [
        "tofc_single",
        "tofc_selective",
        "tofc_heuristic",
    ]
