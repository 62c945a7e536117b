"""Checkpoints that are damaged, that this harness does not run, or whose files describe two models."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import CheckpointError
from harness.models import files, llava15, onevision
from tests.small_models import old_name, stored, write


def change(*path: str, to: object):
    """Replaces a value of a config.json."""

    def apply(config: dict) -> None:
        *above, last = path
        for key in above:
            config = config[key]
        config[last] = to

    return apply


CONFIGS = [
    (change("quantization_config", to={"quant_method": "awq", "bits": 4}), r"its weights are quantised \(awq\)"),
    (change("quantization_config", to={"quant_method": "bitsandbytes", "load_in_4bit": True}), r"\(bitsandbytes\)"),
    (change("quantization_config", to={}), r"quantised \(an unnamed method\)"),
    (change("quantization_config", to=[4]), r"quantised \(an unnamed method\)"),
    (change("vision_feature_layer", to=3), "vision_feature_layer is 3; a tower of 2 layers has -3 to 2"),
    (change("vision_feature_layer", to=-4), "vision_feature_layer is -4; a tower of 2 layers"),
    (change("vision_feature_layer", to=[-1, -2]), r"vision_feature_layer is \[-1, -2\]; the number of one layer"),
    (
        change("vision_feature_select_strategy", to="cls"),
        "vision_feature_select_strategy.*cls",
    ),
    (
        change("vision_feature_select_strategy", to="default"),
        "vision_feature_select_strategy is 'default'; 'full' is expected",
    ),
    (
        change("vision_config", to={"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}),
        "vision_config.model_type is 'clip_vision_model'; 'siglip_vision_model' is expected",
    ),
    (change("vision_aspect_ratio", to="anyres"), "vision_aspect_ratio is 'anyres'"),
    (change("vision_aspect_ratio", to="square"), "vision_aspect_ratio is 'square'"),
    (change("vision_aspect_ratio", to="anyres_max_0"), "vision_aspect_ratio is 'anyres_max_0'"),
    (change("vision_config", "num_attention_heads", to=0), "num_attention_heads"),
    (change("text_config", "num_attention_heads", to=0), "num_attention_heads"),
    (change("text_config", "num_key_value_heads", to=0), "num_key_value_heads"),
    (change("text_config", "num_key_value_heads", to=3), "num_key_value_heads"),
    (change("vision_config", "num_attention_heads", to=5), "num_attention_heads"),
    (change("vision_config", "patch_size", to=0), "patch_size"),
    (change("vision_config", "patch_size", to=64), "patch_size 64"),
    (change("vision_config", "image_size", to=-32), "image_size"),
    (change("vision_config", "image_size", to=True), "image_size"),
    (change("vision_config", "hidden_size", to=0), "hidden_size"),
    (change("text_config", "hidden_size", to=0), "hidden_size"),
    (change("text_config", "vocab_size", to=0), "vocab_size"),
    (change("text_config", "num_hidden_layers", to=0), "num_hidden_layers"),
    (change("vision_config", "num_hidden_layers", to=0), "num_hidden_layers|vision_feature_layer"),
    (change("image_grid_pinpoints", to=[]), "image_grid_pinpoints"),
    (change("image_grid_pinpoints", to=[[32, "a"]]), "image_grid_pinpoints"),
    (change("image_grid_pinpoints", to=[[8, 8]]), "image_grid_pinpoints"),
    (change("image_grid_pinpoints", to=32), "image_grid_pinpoints"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "sentence"), CONFIGS, ids=[sentence for _, sentence in CONFIGS])
def test_what_this_harness_does_not_run_is_refused(tmp_path: Path, damage, sentence: str) -> None:
    """One sentence that names the file and the key, before a tensor is read."""
    stored(tmp_path, "onevision")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    damage(config)
    path.write_text(json.dumps(config))
    for file in tmp_path.glob("*.safetensors"):
        os.truncate(file, 0)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        onevision.load("llava-onevision-7b", weights=tmp_path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.slow
def test_a_class_token_is_no_feature(tmp_path: Path) -> None:
    """CLIP's first state is that of its class token: with it V would be one more than the positions."""
    stored(tmp_path, "llava15")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vision_feature_select_strategy": "full"}))
    with pytest.raises(
        CheckpointError, match="is 'full'; 'default' is expected, with which each position has a feature"
    ):
        llava15.load("llava-1.5-7b", weights=tmp_path)


UNPLACED = [
    ("tower", "vision_config", {"num_hidden_layers": 1}, "encoder.layers.1."),
    ("language", "text_config", {"num_hidden_layers": 1}, "model.layers.1."),
    ("projector", None, {"multimodal_projector_bias": False}, "multi_modal_projector.linear_1.bias"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("part", "key", "less", "first"), UNPLACED, ids=[part for part, *_ in UNPLACED])
def test_weights_that_the_config_has_no_place_for_are_refused(tmp_path: Path, part, key, less, first: str) -> None:
    """A config.json with fewer layers or biases than the weights would give another model, silently."""
    stored(tmp_path, "onevision")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    (config if key is None else config[key]).update(less)
    if key == "text_config":
        config[key].pop("layer_types", None)
    path.write_text(json.dumps(config))
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    sentence = rf"\d+ weights of the {part} have no place in the model that its config.json describes, {first}"
    for use in (models.vision if part == "tower" else models.language, models.whole):
        with pytest.raises(CheckpointError, match=sentence) as refusal:
            use()
        assert str(tmp_path) in str(refusal.value)


def test_the_pooling_head_of_siglip_is_not_missed(tmp_path: Path) -> None:
    """Checkpoints may have it, although no model reads the pooled feature."""
    weights = stored(tmp_path, "onevision", sharded=False)
    old = {old_name(name): tensor for name, tensor in weights.items()}
    write(tmp_path, {**old, "vision_tower.vision_model.head.probe": torch.ones(1, 1, 32)}, sharded=False)
    assert onevision.load("llava-onevision-7b", weights=tmp_path).vision().feature_dim == 32


def test_a_head_with_rows_of_its_own_is_not_the_embedding(tmp_path: Path) -> None:
    """Where a vocabulary was extended, head and embedding differ in the rows at the end alone."""
    weights = stored(tmp_path, "onevision", tied=True, sharded=False)
    embedding = weights["model.language_model.embed_tokens.weight"]
    head = embedding.clone()
    old = {old_name(name): tensor for name, tensor in weights.items()}
    write(tmp_path, {**old, "language_model.lm_head.weight": head}, sharded=False)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "lm_head.weight" not in files.tensors(tmp_path, "language")
    head[-2:] += 1
    write(tmp_path, {**old, "language_model.lm_head.weight": head}, sharded=False)
    assert "lm_head.weight" in files.tensors(tmp_path, "language")
    engine: Any = onevision.load("llava-onevision-7b", weights=tmp_path).language()._engine
    loaded = engine.language
    assert torch.equal(loaded.lm_head.weight, head)
    assert torch.equal(loaded.model.embed_tokens.weight, embedding)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "\xff", "null", ""], ids=list("deeps")[:5])
def test_json_that_is_deep_or_none_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    """Not a RecursionError; the file is named."""
    stored(tmp_path, "onevision")
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        onevision.load("llava-onevision-7b", weights=tmp_path).language()


HEADERS = {
    "claims more than it is": struct.pack("<Q", 1 << 60) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "deep JSON": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "no object": struct.pack("<Q", 2) + b"[]",
    "empty": b"",
}


@pytest.mark.slow
@pytest.mark.parametrize("header", HEADERS)
def test_a_damaged_header_is_one_sentence(tmp_path: Path, header: str) -> None:
    """For reading a part and for its fingerprint alike."""
    stored(tmp_path, "onevision")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    (tmp_path / index["image_newline"]).write_bytes(HEADERS[header])
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    for use in (lambda: models.language(), lambda: models.fingerprint("projector")):
        with pytest.raises(CheckpointError, match=r"model-000\d\d-of-00012\.safetensors: "):
            use()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    """Quantised tensors that the config does not mention, and doubles: by the tensor's name."""
    weights = stored(tmp_path, "onevision", sharded=False, old=False)
    key = "model.multi_modal_projector.linear_1.weight"
    write(tmp_path, {**weights, key: weights[key].to(dtype)}, sharded=False)
    models = onevision.load("llava-onevision-7b", weights=tmp_path)
    for use in (lambda: models.language(), lambda: models.fingerprint("projector")):
        with pytest.raises(CheckpointError, match=rf"model\.safetensors: {key} is stored as ") as refusal:
            use()
        assert "\n" not in str(refusal.value)
