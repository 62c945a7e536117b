"""LLaVA-OneVision in parts: together they are transformers' own model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaOnevisionForConditionalGeneration, SiglipVisionConfig

from harness import catalog
from harness.data.sample import Question
from harness.errors import BitstreamError, CheckpointError, UnavailableError
from harness.models import files, llava, onevision, tower
from harness.models.contract import LanguageSide, Layout, Request, Untimed, VisionSide
from harness.models.engine import Prompt, TransformersEngine
from harness.models.onevision import full_size_config, load
from tests.small_models import said, save

CHOICE = Question(text="Which colour?", kind="choice", options={"A": "red", "B": "green"})
YES_NO = Question(text="Is it red?", kind="yes_no")


def picture(width=70, height=50, seed=0):
    """A picture whose tokens are all different."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def theirs(backbone, prompt_TH, **options):
    """What transformers generates from the same embeddings."""
    model = backbone.model
    ids = model.generate(
        inputs_embeds=prompt_TH[None],
        attention_mask=torch.ones(1, len(prompt_TH), dtype=torch.long),
        do_sample=False,
        max_new_tokens=backbone._engine.max_new_tokens,
        eos_token_id=list(backbone._engine.stop),
        pad_token_id=0,
        **options,
    )
    return backbone.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True)


def test_it_is_both_sides_of_a_model(tiny) -> None:
    """The class has every part that the contract names, and its geometry."""
    for side in (VisionSide, LanguageSide):
        assert all(hasattr(tiny, name) for name in vars(side) if not name.startswith("_"))
    assert tiny.name == "tiny"
    assert tiny.device == torch.device("cpu")
    assert (tiny.n_features, tiny.feature_dim) == (16, 32)
    assert tiny.tiling.grids[-1] == (6, 6)


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_features_are_the_towers_hidden_states(tiny, layer) -> None:
    """X is hidden_states[layer] of transformers' own forward pass."""
    pixels_PCHW = tiny.preprocess(picture()).pixels_PCHW
    with torch.inference_mode():
        wanted = tiny.model.model.vision_tower(pixels_PCHW, output_hidden_states=True).hidden_states[layer]
        torch.testing.assert_close(tower.features(tiny.model.model.vision_tower, pixels_PCHW, layer), wanted)


def test_all_tokens_are_get_image_features(real_grid) -> None:
    """The parts up to the tokens are transformers' get_image_features, at 27 x 27 features a tile."""
    tiles = real_grid.preprocess(picture(500, 300))
    tokens_TH = real_grid.project_all(real_grid.encode(tiles), tiles.layout)
    with torch.inference_mode():
        wanted = real_grid.model.model.get_image_features(tiles.pixels_PCHW, torch.tensor([tiles.layout.image_size]))
    torch.testing.assert_close(tokens_TH, wanted.pooler_output[0])


def test_merged_features_go_through_the_projector_alone(tiny) -> None:
    """Project is the projector, patch after patch, whatever dtype the features arrive in."""
    y_PCD = torch.randn(5, 3, 32)
    tokens_TH = tiny.project(y_PCD)
    assert tokens_TH.shape == (15, 32)
    with torch.inference_mode():
        torch.testing.assert_close(tokens_TH[3:6], tiny.model.model.multi_modal_projector(y_PCD[1]))
    torch.testing.assert_close(tiny.project(y_PCD.double()), tokens_TH)


def test_the_whole_answer_is_transformers_own(build) -> None:
    """From pixels and token ids, with transformers placing the image: the same text as from the parts."""
    backbone = build(seed=3)
    tiles = backbone.preprocess(picture(90, 60))
    tokens_TH = backbone.project_all(backbone.encode(tiles), tiles.layout)
    image_id = backbone.model.config.image_token_index
    encode = backbone.tokenizer.encode
    ids = [
        *encode(backbone.template.before).ids,
        *[image_id] * len(tokens_TH),
        *encode(backbone.template.suffix(CHOICE)).ids,
    ]
    with torch.inference_mode():
        generated = backbone.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values=tiles.pixels_PCHW[None],
            image_sizes=torch.tensor([tiles.layout.image_size]),
            do_sample=False,
            max_new_tokens=backbone._engine.max_new_tokens,
            eos_token_id=list(backbone._engine.stop),
            pad_token_id=0,
        )
    wanted = backbone.tokenizer.decode(generated[0, len(ids) :].tolist(), skip_special_tokens=True)
    assert said(backbone, tokens_TH, CHOICE) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("question", [CHOICE, YES_NO])
def test_prefill_and_generate_are_greedy_generation(build, seed: int, question) -> None:
    """Split in two, decoding gives what generate(inputs_embeds=...) gives in one, and counts what it read and wrote."""
    backbone = build(seed)
    tokens_TH = backbone.project(torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(seed)))
    with torch.inference_mode():
        prompt_TH = backbone.prompt([tokens_TH], question)
        wanted = theirs(backbone, prompt_TH)
    (answer,) = backbone.answer([Request([tokens_TH], question)], [Untimed()])
    assert answer.text == wanted
    assert answer.prompt_tokens == len(prompt_TH)
    assert answer.visual_tokens == 12
    limit = backbone._engine.max_new_tokens
    n_said = len(backbone.tokenizer.encode(wanted).ids)
    assert 0 < answer.answer_tokens <= limit
    assert answer.answer_tokens == limit or n_said <= answer.answer_tokens


def test_where_an_answer_ends(build) -> None:
    """An answer ends before a stop token, wherever that comes, or after max_new_tokens."""
    backbone = build(1)
    tokens_TH = backbone.project(torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)))

    def written(stop, limit):
        engine = TransformersEngine(backbone._engine.language, stop=stop, max_new_tokens=limit)
        (found,) = engine.answer([lambda: Prompt(backbone.prompt([tokens_TH], CHOICE))], [Untimed()])
        return found

    free = written((), 8)
    assert (len(free.answer_ids), free.n_written) == (8, 8)
    assert written((), 3).answer_ids == free.answer_ids[:3]
    for stop in set(free.answer_ids):
        before = free.answer_ids[: free.answer_ids.index(stop)]
        stopped = written((stop,), 8)
        assert (stopped.answer_ids, stopped.n_written) == (before, len(before) + 1)


@pytest.mark.slow
@pytest.mark.parametrize(("declared", "ids"), [(7, {7}), ([7, 8], {7, 8}), (None, set())])
def test_stop_tokens_are_the_templates_and_the_checkpoints(folder, declared, ids) -> None:
    """Whatever end the checkpoint declares counts beside the template's, for a language side and for a whole model."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
    models = load("llava-onevision-7b", weights=folder)
    stop = models.tokenizer.token_to_id("<|im_end|>")
    for side in (models.language(), models.backbone()):
        assert isinstance(side._engine, TransformersEngine)
        assert side._engine.stop == ids | {stop}
    assert llava.stop_ids(models.tokenizer, models.family.template, ()) == {stop}


@pytest.mark.parametrize("declared", ["end", [7, "end"], 1.5])
def test_damaged_stop_tokens_are_refused(folder, declared) -> None:
    """The message has the file and the value that is no token's number."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id is .* a token's number"):
        load("llava-onevision-7b", weights=folder).language()


def test_gradients_pass_through_the_prompt(tiny) -> None:
    """Gradients reach the visual tokens and the embeddings."""
    tokens_TH = torch.randn(3, 32, requires_grad=True)
    tiny.prompt([tokens_TH], CHOICE).square().sum().backward()
    assert tokens_TH.grad is not None
    assert tokens_TH.grad.abs().sum() > 0
    tiny.model.zero_grad()


def test_features_of_another_image_are_refused(tiny) -> None:
    """project_all names what does not fit, because features may have come over a link."""
    tiles = tiny.preprocess(picture())
    x_PVD = tiny.encode(tiles)
    with pytest.raises(BitstreamError, match=r"features of shape \(7, 15, 32\) on a 2 x 3 grid"):
        tiny.project_all(x_PVD[:, :15], tiles.layout)
    with pytest.raises(BitstreamError, match="are not those that tiny has of a 30 x 900 image"):
        tiny.project_all(x_PVD, Layout(tiles.layout.grid, (900, 30)))


@pytest.fixture
def folder(tmp_path, tiny):
    """A checkpoint of the tiny model as transformers writes it, its weights in half precision."""
    save(tiny, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_a_checkpoint_is_loaded(folder, tiny, capfd: pytest.CaptureFixture[str]) -> None:
    """Half-precision weights run in float32 on a CPU, give the saved model's answers, and load without output."""
    loaded = load("llava-onevision-0.5b", weights=folder).backbone()
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not loaded.model.training
    tiles = tiny.preprocess(picture())
    torch.testing.assert_close(loaded.encode(tiles), tiny.encode(tiles), atol=2e-2, rtol=2e-2)
    assert isinstance(said(loaded, loaded.project(torch.randn(1, 2, 32)), CHOICE), str)
    assert load("llava-onevision-0.5b", weights=folder, dtype="bfloat16").whole().dtype == torch.bfloat16
    assert capfd.readouterr() == ("", "")


def test_random_weights_take_the_checkpoints_own_config(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights for the name of an installed checkpoint have its architecture and tokenizer."""
    monkeypatch.setitem(files.SOURCES, "mini-onevision", folder)
    backbone = load("mini-onevision", weights="random", dtype=torch.bfloat16).backbone()
    assert backbone.feature_dim == 32
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    tiles = backbone.preprocess(picture())
    tokens_TH = backbone.project_all(backbone.encode(tiles), tiles.layout)
    assert torch.isfinite(tokens_TH.float()).all()
    assert isinstance(said(backbone, tokens_TH, CHOICE), str)


def damage_config(path):
    """Truncated JSON."""
    (path / "config.json").write_text('{"model_type": ')


def foreign_config(path):
    """Another model's architecture."""
    (path / "config.json").write_text('{"model_type": "llava"}')


def impossible_config(path):
    """A size that is not a number."""
    config = json.loads((path / "config.json").read_text())
    config["vision_config"]["hidden_size"] = "wide"
    (path / "config.json").write_text(json.dumps(config))


def cut_weights(path):
    """A truncated download."""
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lose_a_weight(path):
    """Weights without one of them."""
    weights = load_file(path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "image_newline" not in k}, path / "model.safetensors", {"format": "pt"}
    )


def reshape_a_weight(path):
    """Weights of a wider model."""
    weights = load_file(path / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("image_newline")]
    save_file(weights | {name: torch.zeros(33)}, path / "model.safetensors", {"format": "pt"})


def lose_the_weights(path):
    """A folder with all other files."""
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def lose_the_tokenizer(path):
    """A folder with all other files."""
    (path / "tokenizer.json").unlink()


def damage_the_tokenizer(path):
    """JSON that is not a tokenizer's."""
    (path / "tokenizer.json").write_text("[]")


def foreign_tokenizer(path):
    """A tokenizer without the template's tokens."""
    text = (path / "tokenizer.json").read_text()
    (path / "tokenizer.json").write_text(text.replace("<|im_end|>", "<|fin|>"))


def larger_tokenizer(path):
    """A tokenizer with more tokens than the model has embeddings."""
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["vocab_size"] = 200
    (path / "config.json").write_text(json.dumps(config))


def both_sides(path):
    """Loads the parts of a folder, one by one."""
    models = load("llava-onevision-7b", weights=path)
    return models.vision(), models.language()


DAMAGE = [
    (damage_config, "config.json: is not JSON"),
    (foreign_config, "config.json: model_type is 'llava'; 'llava_onevision' is expected"),
    (impossible_config, "config.json: does not describe a llava_onevision model"),
    (cut_weights, "its weights cannot be read: "),
    (lose_a_weight, "1 weights of the projector are missing, image_newline first"),
    (reshape_a_weight, r"image_newline has shape \(33,\) and the config wants \(32,\)"),
    (lose_the_weights, "there are no weights"),
    (lose_the_tokenizer, "tokenizer.json: is absent"),
    (damage_the_tokenizer, "tokenizer.json: is not a tokenizer"),
    (foreign_tokenizer, "tokenizer.json: has no token '<|im_end|>'"),
    (larger_tokenizer, "tokenizer.json: has a token 257, but the model's vocabulary ends at 199"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "sentence"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_damaged_and_foreign_checkpoints(folder, damage, sentence: str) -> None:
    """Each is refused in one sentence that names the file."""
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence.replace("|", r"\|")) as refusal:
        both_sides(folder)
    assert str(folder) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_absent_checkpoints_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id that is not cached, a path that does not exist, and a miniature that is not trained."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError, match="'harness weights get llava-onevision-7b'"):
        load("llava-onevision-7b")
    with pytest.raises(UnavailableError, match="/nowhere/at/all is neither a folder nor in the local cache"):
        load("llava-onevision-7b", weights="/nowhere/at/all")
    monkeypatch.setitem(files.SOURCES, "mini-nano", catalog.ZOO / "untrained")
    with pytest.raises(UnavailableError, match="'make weights' trains them"):
        load("mini-nano")


def test_unknown_names_and_dtypes() -> None:
    """Unknown names and dtypes are refused with the list of known ones."""
    with pytest.raises(CheckpointError, match=r"unknown model 'gpt'; known: .*llava-onevision-7b"):
        load("gpt")
    with pytest.raises(CheckpointError, match="unknown dtype 'int8'; models run in float32"):
        load("llava-onevision-7b", dtype="int8", weights="random")


@pytest.mark.parametrize(
    ("name", "total_m", "vision_m", "projector_m"),
    [("llava-onevision-7b", 8030.8, 397.7, 17.0), ("llava-onevision-0.5b", 893.7, 397.7, 1.8)],
)
def test_full_size_parameters(name: str, total_m, vision_m, projector_m) -> None:
    """The full-size architectures have the published numbers of parameters, in millions."""
    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(full_size_config(name))

    def millions(module):
        return round(sum(p.numel() for p in module.parameters()) / 1e6, 1)

    assert millions(model) == total_m
    assert millions(model.model.vision_tower) == vision_m
    assert millions(model.model.multi_modal_projector) == projector_m
    tiling = onevision.tiling_of(model.config)
    assert (tiling.patch, len(tiling.grids)) == (384, 36)
    vision = model.config.vision_config
    assert isinstance(vision, SiglipVisionConfig)
    assert (vision.image_size, vision.patch_size) == (384, 14), "27 x 27 features"


def test_copies_of_a_checkpoint_agree(folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A checkpoint is only its folder: moved elsewhere it gives the same answers."""
    elsewhere = shutil.copytree(folder, tmp_path_factory.mktemp("copies") / "moved")
    tokens = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for path in (folder, elsewhere):
        backbone = load("llava-onevision-7b", weights=path).language()
        found.append(said(backbone, backbone.project(tokens), CHOICE))
    assert found[0] == found[1]
