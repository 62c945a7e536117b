"""LLaVA-1.5 in parts: together they are transformers' own model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from harness.data.sample import Question
from harness.errors import BitstreamError, CheckpointError
from harness.models import llava15
from harness.models.contract import Layout
from harness.models.llava15 import CLIP_MEAN, CLIP_STD, full_size_config, load
from tests.small_models import said, save

CHOICE = Question(text="Which colour?", kind="choice", options={"A": "red", "B": "green"})


def picture(width, height):
    """A picture in which every pixel matters."""
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("width", "height"), [(40, 30), (32, 32), (30, 41), (700, 500), (1, 9)])
def test_one_padded_tile_is_the_processors(tiny15, width: int, height: int) -> None:
    """Square padding in the mean colour, resize and normalisation are those of transformers' processor."""
    size = {"height": 32, "width": 32}
    processor = LlavaImageProcessorPil(
        do_pad=True, size=size, do_center_crop=False, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD)
    )
    image = picture(width, height)
    tiles = tiny15.preprocess(image)
    assert (tiles.layout.grid, tiles.layout.image_size) == ((1, 1), (height, width))
    wanted_PCHW = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(tiles.pixels_PCHW, wanted_PCHW, atol=1e-6, rtol=0)


def test_all_tokens_are_get_image_features(tiny15) -> None:
    """The second-last layer without its class token, through the projector."""
    assert (tiny15.n_features, tiny15.feature_dim) == (16, 32)
    tiles = tiny15.preprocess(picture(40, 30))
    x_PVD = tiny15.encode(tiles)
    assert x_PVD.shape == (1, 16, 32)
    with torch.inference_mode():
        wanted = tiny15.model.model.get_image_features(tiles.pixels_PCHW).pooler_output[0]
    torch.testing.assert_close(tiny15.project_all(x_PVD, tiles.layout), wanted)
    torch.testing.assert_close(tiny15.project(x_PVD), wanted)


def test_the_whole_answer_is_transformers_own(tiny15) -> None:
    """From pixels and token ids, with transformers placing the image: the same text as from the parts."""
    tiles = tiny15.preprocess(picture(40, 30))
    encode = tiny15.tokenizer.encode
    ids = [*encode(tiny15.template.before).ids, *[261] * 16, *encode(tiny15.template.suffix(CHOICE)).ids]
    with torch.inference_mode():
        generated = tiny15.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values=tiles.pixels_PCHW,
            do_sample=False,
            max_new_tokens=tiny15._engine.max_new_tokens,
            eos_token_id=tiny15.tokenizer.token_to_id("</s>"),
            pad_token_id=0,
        )
    wanted = tiny15.tokenizer.decode(generated[0, len(ids) :].tolist(), skip_special_tokens=True)
    tokens_TH = tiny15.project_all(tiny15.encode(tiles), tiles.layout)
    assert said(tiny15, tokens_TH, CHOICE) == wanted


def test_features_of_a_tiled_image_are_refused(tiny15) -> None:
    """project_all takes the features of one patch, because features may have come over a link."""
    with pytest.raises(
        BitstreamError, match=r"features of shape \(5, 16, 32\) on a 2 x 2 grid are not those .*\(1, 16, 32\) on 1 x 1"
    ):
        tiny15.project_all(torch.zeros(5, 16, 32), Layout((2, 2), (60, 60)))


def test_a_checkpoint_is_loaded(tiny15, tmp_path: Path) -> None:
    """A saved model is loaded by name and folder, and gives the same answers."""
    loaded = load("llava-1.5-7b", weights=save(tiny15, tmp_path)).language()
    tokens_TH = tiny15.project(torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0)))
    found = [said(b, tokens_TH, CHOICE) for b in (tiny15, loaded)]
    assert found[0] == found[1]


def test_full_size_parameters() -> None:
    """The full-size architecture has 7063.4 million parameters, and 576 features of 1024."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(full_size_config("llava-1.5-7b"))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 7063.4
    vision = model.config.vision_config
    assert isinstance(vision, CLIPVisionConfig)
    assert (vision.image_size, vision.patch_size, vision.hidden_size) == (336, 14, 1024), "24 x 24 features"
    assert (model.config.vision_feature_layer, model.config.vision_feature_select_strategy) == (-2, "default")


def test_unknown_names_list_the_known() -> None:
    """An unknown name is refused with the list of known ones; the checkpoint of another family by its model_type."""
    sentence = r"unknown model 'llava-1\.6'; did you mean 'llava-1\.5-7b'\? known: .*llava-1\.5-7b.*mini-llava15"
    with pytest.raises(CheckpointError, match=sentence):
        load("llava-1.6")
    with pytest.raises(CheckpointError, match="model_type is 'llava_onevision'; 'llava' is expected"):
        load("mini-onevision")
    with pytest.raises(CheckpointError, match=r"unknown full-size LLaVA-1.5 'mini-llava15'"):
        llava15.full_size_config("mini-llava15")
