"""Configurations: those that are shipped, what --set changes, and the sentence for each mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness.models.torchvision_ops  # noqa: F401  isort: skip - transformers imports torchvision
import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from harness.errors import ScenarioError
from harness.models import adapter
from harness.models.onevision import OneVision, full_size_config
from harness.models.pieces import PieceTokenizer
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.training import recipe
from harness.training.card import Reduced, card, stage_of
from harness.training.load import as_given, config_hash, load, refuse_folders
from harness.training.schedule import Schedule

SHIPPED = sorted((Path(__file__).parents[2] / "training").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_valid(path: Path) -> None:
    """It is named after its file, and full size is the paper's setting."""
    config = load(path)
    assert config.name == path.stem
    if "7b" in path.stem:
        assert config.codec is not None
        assert config.rate_weight is not None
        assert (config.lora.rank, config.codec.experts, config.epochs, config.alpha) == (64, 16, 1, 1e-3)
        assert config.batch == {"llava_onevision_7b": 256, "llava_1.5_7b": 128}[path.stem.removesuffix("_paper")]
        assert (config.temperature.start, config.temperature.end) == (10, 0.1)
        assert 0.003 <= config.rate_weight <= 0.03
        assert not [text for text in recipe.departures(config) if "balance" not in text]
    if path.stem.endswith("_paper"):
        assert recipe.recipe_of(config) == "paper"
        assert (config.temperature.start, config.temperature.end, config.alpha) == (10, 0.1, 1e-3)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_stage_of_a_shipped_configuration_is_valid(path: Path) -> None:
    """Merging alone of all, and the codec alone of those with a pre-fit; named and separate from the whole."""
    whole, merging = load(path), load(path, stage="merging")
    assert (merging.name, merging.out, merging.stage) == (f"{path.stem}_merging", f"{whole.out}_merging", "merging")
    assert (merging.codec, merging.rate_weight, merging.prefit.steps) == (None, None, 0)
    assert merging.lora == whole.lora
    assert Schedule(merging, 10).lines()[1:]
    if whole.prefit.steps:
        codec = load(path, stage="codec")
        assert (codec.name, codec.steps, codec.lora.rank, codec.stage) == (f"{path.stem}_codec", 0, 0, "codec")
        assert codec.prefit == whole.prefit
        ends = [Schedule(codec, 0).of_prefit(step) for step in (0, codec.prefit.steps - 1)]
        assert ends == [10, 0 if codec.temperature.hard_share else pytest.approx(0.1)]


def test_full_size_has_the_paper_s_budget() -> None:
    """About 300 million trainable parameters of 8 billion (V-A2), counted without allocating any."""
    config = load(SHIPPED[0].parent / "llava_onevision_7b.yaml")
    assert config.codec is not None
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(full_size_config(config.backbone))
        codec = TofcCodec(CodecConfig(dim=1152, n_experts=config.codec.experts))
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding)
    backbone = OneVision(config.backbone, model, PieceTokenizer(embedding.num_embeddings))
    trained = adapter.size(backbone, config.lora.rank) + sum(p.numel() for p in codec.parameters())
    assert trained == pytest.approx(300e6, rel=0.03)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.03e9, rel=0.01)


def test_settings_replace_values(write_config: Callable[..., Path]) -> None:
    """Dotted keys, values as YAML has them; a bare no is a precision; the folder does not decide the weights."""
    path = write_config()
    config = load(path, ["lambda=0.5", "lora.rank=2", "clusters=[4]", "precision=no", "out=elsewhere"])
    assert (config.rate_weight, config.lora.rank, config.clusters) == (0.5, 2, (4,))
    assert (config.precision, config.out) == ("no", "elsewhere")
    assert as_given(config)["lambda"] == 0.5
    assert config_hash(load(path, ["out=a", "log_every=1", "prefit.cache=b"])) == config_hash(load(path))
    assert config_hash(load(path, ["seed=1"])) != config_hash(load(path))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"colour": 1}, r"tiny.yaml:\d+: colour: unknown key; .*known: name, backbone"),
        ({"lambda": 0}, r"tiny.yaml:\d+: lambda: 0 is not right: input should be greater than 0"),
        ({"codec": {"hidden": [0]}}, r"tiny.yaml:\d+: codec.hidden.0: 0 is not right: input should be greater"),
        ({"backbone": "llava"}, r"unknown backbone 'llava'; known: "),
        ({"data": {"kind": "tsv"}}, r"unknown kind of training data 'tsv'; known: bundled, conversations, pictures"),
        ({"data": {"kind": "pictures", "folder": "x"}}, "data: pictures have no questions and can train only a codec"),
        (
            {
                "data": {"kind": "pictures", "folder": "x"},
                "prefit": {"steps": 2, "distortion": "features", "lambda": 0.05},
            },
            r"can train only a codec, which needs --stage codec$",
        ),
        (
            {"data": {"kind": "pictures", "folder": "x"}, "steps": 0, "lora": {"rank": 0}, "prefit": {"steps": 2}},
            r"can train only a codec, which needs prefit.distortion: features, prefit.lambda, such as 0.05$",
        ),
        ({"lambda": None}, "lambda: is missing; it weighs bits against the distortion"),
        ({"codec": {"scheme": "jpeg"}}, r"codec.scheme: 'jpeg' is not right"),
        ({"codec": {"scheme": "tofc_heuristic"}}, "bits: tofc_heuristic needs a bit length"),
        ({"scheme": "visionzip"}, "scheme is visionzip, whose reduction is trained with only the distortion"),
        ({"data": {"kind": "bundled", "first_book": -1}}, r"data.first_book: -1 is not right"),
        ({"epochs": 1.0}, "give the length of the training either as"),
        ({"steps": 0}, "lora.rank is above 0, but steps is 0"),
        ({"steps": 0, "prefit": None}, "steps and prefit.steps are both 0"),
        ({"micro_batch": 3}, "batch is 4; it must be a multiple of micro_batch, 3"),
        ({"precision": "fp8"}, r"precision: 'fp8' is not right"),
        (
            {"prefit": {"steps": 2, "distortion": "features"}},
            "distortion: features needs a lambda of its own in the pre-",
        ),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(
    write_config: Callable[..., Path], changes: dict[str, Any], sentence: str
) -> None:
    """File, line and key, the value, and what would be right."""
    with pytest.raises(ScenarioError, match=sentence):
        load(write_config(**changes))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("scheme=jpeg", "--set scheme=jpeg: .*jpeg reduces no features; tofc, visionzip or qformer do"),
        ("scheme=gif", "--set scheme=gif: .*unknown scheme 'gif'"),
        ("lora.rank=0", "codec is null, and lora.rank is 0: there is nothing to train"),
        ("prefit.steps=2", "codec is null, but prefit.steps is above 0"),
    ],
)
def test_a_stage_without_a_codec_refuses_what_has_no_place(
    write_config: Callable[..., Path], setting: str, sentence: str
) -> None:
    """A pre-fit, a frozen backbone, a scheme that keeps all features."""
    with pytest.raises(ScenarioError, match=sentence):
        load(write_config(), [setting], "merging")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("lambda=-1", "--set lambda=-1: -1 is not right"),
        ("lora.size=3", "--set lora.size=3: unknown key"),
        ("lambda", "--set lambda: is not KEY=VALUE"),
        ("name.x=1", "--set name.x=1: 'name' has no keys inside it"),
        (
            "data={kind: pictures, folder: x}",
            "^--set data={kind: pictures, folder: x}: data: pictures have no questions",
        ),
        ("prefit.distortion=features", "^--set prefit.distortion=features: distortion: features needs a lambda"),
        ("micro_batch=3", "^--set micro_batch=3: batch is 4; it must be a multiple"),
    ],
)
def test_a_wrong_setting_is_named(write_config: Callable[..., Path], setting: str, sentence: str) -> None:
    """The error names the command line, not the file."""
    with pytest.raises(ScenarioError, match=sentence):
        load(write_config(), [setting])


def test_options_that_make_a_mistake_together_are_all_named(write_config: Callable[..., Path]) -> None:
    """Each of them alone is right; what is the file's own stays the file's."""
    path = write_config()
    with pytest.raises(ScenarioError, match=r"^--set batch=6 --set micro_batch=4: batch is 6; it must be a multiple"):
        load(path, ["seed=1", "batch=6", "micro_batch=4"])
    with pytest.raises(
        ScenarioError, match=r"^--stage merging --set prefit\.steps=2: codec is null, but prefit\.steps"
    ):
        load(path, ["prefit.steps=2"], "merging")
    wrong = write_config(micro_batch=3)
    with pytest.raises(ScenarioError, match=rf"^{wrong}:\d+: batch is 4; it must be a multiple of micro_batch, 3"):
        load(wrong, ["seed=1"])


def test_a_folder_that_cannot_be_written_is_refused_with_what_named_it(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    """The setting or the file; an absent folder is not made."""
    (tmp_path / "all.csv").touch()
    for key in ("out", "prefit.cache"):
        for folder, sentence in (("all.csv", "is a file"), ("all.csv/x", f"{tmp_path / 'all.csv'} is a file")):
            setting = f"{key}={tmp_path / folder}"
            with pytest.raises(ScenarioError) as caught:
                refuse_folders(write_config(), load(write_config(), [setting]), [setting])
            assert str(caught.value) == f"--set {setting}: {sentence}; a folder is expected"
    path = write_config(out=str(tmp_path / "all.csv"))
    with pytest.raises(ScenarioError, match=rf"^{path}: out: .*all\.csv: is a file; a folder is expected$"):
        refuse_folders(path, load(path))
    path = write_config(out=str(tmp_path / "new" / "folder"))
    refuse_folders(path, load(path))
    assert not (tmp_path / "new").exists()


def test_the_temperature_falls_over_the_soft_steps(write_config: Callable[..., Path]) -> None:
    """From start to end exponentially, whatever the pre-fit's steps, then hard; without a hard share it ends at end."""
    schedule = Schedule(load(write_config(temperature={"hard_share": 0.5})), 10)
    assert [schedule.temperature(step) for step in (0, 2, 4)] == pytest.approx([10, 1, 0.1])
    assert [schedule.temperature(step) for step in (5, 9)] == [0, 0]
    whole = Schedule(load(write_config(temperature={})), 101)
    assert [whole.temperature(step) for step in (0, 50, 100)] == pytest.approx([10, 1, 0.1])


def test_a_recipe_is_the_paper_s_only_without_additions(write_config: Callable[..., Path]) -> None:
    """Each of the four additions alone makes it ours, and is named; other numbers are departures."""
    plain = {"clusters": [3], "prefit": None, "temperature": {}, "codec": {"experts": 16, "step": "one"}}
    config = load(write_config(**plain))
    assert (recipe.recipe_of(config), recipe.additions(config)) == ("paper", [])
    additions: dict[str, dict[str, Any]] = {
        "pre-fit": {"prefit": {"steps": 2}},
        "learned step": {"codec": {"experts": 16}},
        "one instance": {"clusters": [2, 3]},
        "hard steps": {"temperature": {"hard_share": 0.1}},
    }
    for words, changes in additions.items():
        (text,) = recipe.additions(load(write_config(**{**plain, **changes})))
        assert words in text
    departed: dict[str, dict[str, Any]] = {
        "balance weight of 0.1": {"alpha": 0.1},
        "frozen": {"lora": {"rank": 0}},
        "3 entropy models": {"codec": {"experts": 3, "step": "one"}},
        "first deviation": {"codec": {"experts": 16, "step": "fixed"}},
        "lambda of 0.5": {"lambda": 0.5},
    }
    for words, changes in departed.items():
        assert any(words in text for text in recipe.departures(load(write_config(**{**plain, **changes})))), words


def test_a_full_size_joint_training_can_move_the_step() -> None:
    """By a factor of 4 or more, enough after a pre-fit that ends one bit from the rate of lambda."""
    for name, steps in (("llava_onevision_7b", 2599), ("llava_1.5_7b", 5197)):
        assert Schedule(load(SHIPPED[0].parent / f"{name}.yaml"), steps).step_range() > 4


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("llava_onevision_7b_paper", "batch=8", "a batch of 8; the paper's is 256"),
        ("llava_1.5_7b_paper", "batch=256", "a batch of 256; the paper's is 128"),
        ("llava_onevision_7b_paper", "warm_up=0.1", "a warm-up of 0.1 of the steps; the paper's is 0.03"),
        ("llava_onevision_7b_paper", "learning_rates.language=1e-3", "a learning rate of 0.001 for the language part"),
        ("llava_onevision_7b_paper", "learning_rates.vision=1e-5", "a learning rate of 1e-05 for the vision part"),
        ("llava_1.5_7b_paper", "learning_rates.projector=1e-3", "a learning rate of 0.001 for the projector part"),
        ("llava_onevision_7b_paper", "clusters=[64]", "an n_c of 64; the paper's are 8 to 32"),
        ("llava_1.5_7b_paper", "clusters=[8]", "an n_c of 8; the paper's are 16 to 64"),
        ("llava_onevision_7b_paper", "data.entries=1000", "the first 1000 entries; the paper trains on 665K"),
        ("llava_onevision_7b_paper", "backbone=llava-onevision-0.5b", "the backbone is llava-onevision-0.5b"),
    ],
)
def test_each_number_that_is_not_the_paper_s_is_a_departure(name: str, setting: str, words: str) -> None:
    """By backbone, and the shipped configuration has none of them."""
    path = SHIPPED[0].parent / f"{name}.yaml"
    assert recipe.departures(load(path)) == []
    (text,) = recipe.departures(load(path, [setting]))
    assert text.startswith(words)


@pytest.mark.parametrize(
    ("scheme", "of_merging", "learned"),
    [("tofc_single", True, False), ("tofc", True, False), ("visionzip", False, False), ("qformer", False, True)],
)
def test_a_card_and_a_schedule_name_a_reducer_only_where_one_is_learned(
    write_config: Callable[..., Path], scheme: str, of_merging: bool, learned: bool
) -> None:
    """Merging is merging under each name that it has in Table I."""
    config = load(write_config(clusters=[4]), [f"scheme={scheme}"], "merging")
    facts = {
        "steps": {"prefit": 0, "joint": 6},
        "fingerprints": dict.fromkeys(("tower", "projector", "language"), "0"),
        "data": "few",
        "seed": 0,
        "commit": None,
        "dirty": False,
        "seconds": 1,
        "processes": 1,
        "machine": {},
    }
    text = card(config, facts, [Reduced(4, 0.1, 0.2, 0.5, ())])
    assert ("few features of merging" in text) == of_merging
    assert ("few features of another reduction than merging" in text) == (not of_merging)
    assert (f"the reducer of `{scheme}`" in text) == learned
    assert any("reducer" in line for line in Schedule(config, 6).lines()) == learned


def test_a_frozen_backbone_is_not_said_to_be_trained(write_config: Callable[..., Path]) -> None:
    """Joint steps without an adapter train the codec alone."""
    assert stage_of(load(write_config())) == "Algorithm 1, codec and backbone"
    assert stage_of(load(write_config(lora={"rank": 0}))).startswith("Algorithm 1 around a frozen backbone")
