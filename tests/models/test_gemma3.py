"""Gemma 3 in parts: together they are transformers' own model, behind transformers' own processor."""

import json

import pytest
import torch
from transformers import Gemma3ForConditionalGeneration, Gemma3Processor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from harness.data.sample import Question
from harness.errors import CheckpointError, UnavailableError
from harness.models import adapter
from harness.models.contract import Request, Untimed
from harness.models.gemma3 import bidirectional, full_size_config, load
from tests.small_models import logits_of, make_gemma3, noise, said, save

QUESTIONS = {
    "choice": (
        Question(text="Which?", kind="choice", options={"A": "red", "B": "green"}, hint="Look."),
        "Hint: Look.\nQuestion: Which?\nOptions:\nA. red\nB. green\nPlease select the correct answer from the options "
        "above.",
    ),
    "yes or no": (Question(text="Is it red?", kind="yes_no"), "Is it red? Please answer yes or no."),
    "open": (Question(text="What {is} it?", kind="open"), "Question: What {is} it?"),
}


@pytest.fixture(scope="module")
def tiny():
    """A Gemma 3 with 16 features of 32, whose windowed layers reach 8 tokens back."""
    return make_gemma3()


def processor_of(backbone):
    """What transformers prepares pictures and prompts with."""
    config = backbone.model.config
    side = config.vision_config.image_size
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": side, "width": side}),
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=backbone.tokenizer, extra_special_tokens=names),
        image_seq_length=config.mm_tokens_per_image,
    )


def prepared(backbone, images, text):
    """The inputs of transformers' model for pictures and a question about them."""
    shown = "<start_of_image>" * len(images)
    prompt = f"<bos><start_of_turn>user\n{shown}{text}<end_of_turn>\n<start_of_turn>model\n"
    inputs = processor_of(backbone)(images=images, text=prompt, return_tensors="pt")
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(40, 30), (32, 32), (30, 200)])
@pytest.mark.parametrize("kind", QUESTIONS)
def test_logits_are_transformers_own(tiny, kind, size):
    """From pixels and text to the logits of every position, with all features, in layers of either kind."""
    question, text = QUESTIONS[kind]
    image = noise(*size)
    inputs = prepared(tiny, [image], text)
    with torch.inference_mode():
        wanted_TL = tiny.model(**inputs).logits[0]
    tiles = tiny.preprocess(image)
    torch.testing.assert_close(tiles.pixels_PCHW, inputs["pixel_values"], atol=1e-5, rtol=0)
    tokens_TH = tiny.project_all(tiny.encode(tiles), tiles.layout)
    found_TL = logits_of(tiny, [tokens_TH], question)
    torch.testing.assert_close(found_TL, wanted_TL, atol=1e-4, rtol=0)
    # Read in one direction only, as the text is, a picture gives other logits.
    blind = inputs["token_type_ids"].zero_()
    with torch.inference_mode():
        assert (tiny.model(**{**inputs, "token_type_ids": blind}).logits[0] - found_TL).abs().max() > 1e-2


def test_two_pictures_do_not_read_each_other_both_ways(tiny):
    """Each picture is a block of its own; the second reads the first, and not the first the second."""
    question, text = QUESTIONS["open"]
    images = [noise(40, 30), noise(50, 50)]
    inputs = prepared(tiny, images, text)
    with torch.inference_mode():
        wanted_TL = tiny.model(**inputs).logits[0]
    tokens = [tiny.project(tiny.encode(tiny.preprocess(image))) for image in images]
    torch.testing.assert_close(logits_of(tiny, tokens, question), wanted_TL, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_c", [1, 3, 12])
def test_merged_features_are_a_shorter_block(tiny, n_c):
    """With n_c visual tokens the block is n_c long: as in transformers with that number of image tokens."""
    question, text = QUESTIONS["choice"]
    tokens_TH = tiny.project(torch.randn(1, n_c, 32, generator=torch.Generator().manual_seed(n_c)))
    shown = "\n\n<start_of_image>" + "<image_soft_token>" * n_c + "<end_of_image>\n\n"
    prompt = f"<bos><start_of_turn>user\n{shown}{text}<end_of_turn>\n<start_of_turn>model\n"
    ids = torch.tensor(tiny.tokenizer.encode(prompt).ids)
    is_image = ids == tiny.model.config.image_token_index
    with torch.inference_mode():
        embeds_TH = tiny.model.get_input_embeddings()(ids)
        embeds_TH[is_image] = tokens_TH
        wanted_TL = tiny.model(inputs_embeds=embeds_TH[None], token_type_ids=is_image[None].long()).logits[0]
    torch.testing.assert_close(logits_of(tiny, [tokens_TH], question), wanted_TL, atol=1e-4, rtol=0)
    (answer,) = tiny.answer([Request([tokens_TH], question)], [Untimed()])
    assert (answer.visual_tokens, answer.prompt_tokens) == (n_c, len(ids))


def test_the_whole_answer_is_transformers_own(tiny):
    """The same text as generate(), whose later tokens read the windows that the prompt left."""
    question, text = QUESTIONS["choice"]
    image = noise(40, 30)
    inputs = prepared(tiny, [image], text)
    with torch.inference_mode():
        generated = tiny.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=tiny._engine.max_new_tokens,
            eos_token_id=list(tiny._engine.stop),
            pad_token_id=256,
        )
    wanted = tiny.tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :].tolist(), skip_special_tokens=True)
    tiles = tiny.preprocess(image)
    assert said(tiny, tiny.project_all(tiny.encode(tiles), tiles.layout), question) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("tile", "patch", "width", "tokens"), [(896, 14, 8, 256), (32, 4, 32, 64)])
def test_features_are_what_the_projector_norms(tile, patch, width, tokens):
    """The cut is after the pooling: 256 means of 4 x 4 positions on the real one's picture of 896 px."""
    backbone = make_gemma3(tile=tile, patch=patch, width=width, tokens=tokens)
    tiles = backbone.preprocess(noise(70, 32))
    caught = []
    norm = backbone.model.model.multi_modal_projector.mm_soft_emb_norm
    hook = norm.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.inference_mode():
        wanted = backbone.model.model.get_image_features(tiles.pixels_PCHW).pooler_output
    hook.remove()
    x_PVD = backbone.encode(tiles)
    assert x_PVD.shape == (1, tokens, width)
    assert (backbone.n_features, backbone.feature_dim) == x_PVD.shape[1:]
    torch.testing.assert_close(x_PVD, caught[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone.project(x_PVD), wanted[0], atol=1e-5, rtol=1e-5)


def test_attention_is_that_of_the_eager_tower(tiny):
    """A mean receives what its positions receive on average."""
    tiles = tiny.preprocess(noise(64, 32))
    x_PVD, seen = tiny.encode_attended(tiles)
    assert torch.equal(x_PVD, tiny.encode(tiles))
    eager = type(tiny.vision_tower)._from_config(tiny.config.vision_config, attn_implementation="eager").eval()
    eager.load_state_dict(tiny.vision_tower.state_dict())
    with torch.inference_mode():
        weights_PASS = eager(tiles.pixels_PCHW, output_attentions=True).attentions[-1]
    wanted_P88 = weights_PASS.mean((1, 2)).view(-1, 8, 8)
    torch.testing.assert_close(seen.received_PV, torch.nn.functional.avg_pool2d(wanted_P88, 2).flatten(1))
    assert seen.keys_PVK.shape == (1, 16, 16)


def test_which_positions_attend_to_which():
    """Text attends to what came before, a picture also to all of itself, a window of three no further than two."""

    class Config:
        sliding_window = 3

    masks = bidirectional(Config(), 6, [(1, 4)], torch.device("cpu"))
    full = ["x.....", "xxxx..", "xxxx..", "xxxx..", "xxxxx.", "xxxxxx"]
    near = ["x.....", "xxxx..", "xxxx..", ".xxx..", "..xxx.", "...xxx"]
    for layers, rows in (("full_attention", full), ("sliding_attention", near)):
        found = ["".join(".x"[int(reads)] for reads in row) for row in masks[layers][0, 0]]
        assert found == rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("gemma-3-4b", 4_300_079_472), ("gemma-3-12b", 12_187_325_040), ("gemma-3-27b", 27_432_406_640)],
)
def test_full_size_parameters(name, parameters):
    """The published numbers of parameters to the last one, and 256 features of 1152."""
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(full_size_config(name))
    assert sum(p.numel() for p in model.parameters()) == parameters
    models = load(name, weights="random", device="meta")
    vision = models.vision()
    assert (vision.n_features, vision.feature_dim) == (256, 1152)
    assert sum(p.numel() for p in vision.vision_tower.parameters()) == sum(
        p.numel() for p in model.model.vision_tower.parameters()
    )


def test_random_weights_show_pictures(tmp_path, monkeypatch):
    """Where transformers begins a projector with zeros, random weights do not: visual tokens differ."""
    models = load("gemma-3-4b", weights=save(make_gemma3(), tmp_path))
    monkeypatch.setattr(models, "_random", True)
    tokens_TH = models.language().project(torch.randn(1, 2, 32))
    assert (tokens_TH[0] - tokens_TH[1]).abs().max() > 0.1


@pytest.mark.parametrize("engine", [None, lambda _: object()])
def test_embeddings_are_scaled_with_either_engine(tiny, tmp_path, engine):
    """Text is read times the root of the width, by transformers' layers and by another engine."""
    side = load("gemma-3-4b", weights=save(tiny, tmp_path)).language(engine=engine)
    question, _ = QUESTIONS["open"]
    with torch.inference_mode():
        assert torch.equal(side.prompt([], question), tiny.prompt([], question))


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("config.json", {"mm_tokens_per_image": 15}, "mm_tokens_per_image is 15; a square number is expected"),
        ("config.json", {"mm_tokens_per_image": 9}, "whose root divides the 8 positions on a picture's side"),
        ("preprocessor_config.json", {"do_pan_and_scan": True}, "do_pan_and_scan is True"),
        ("preprocessor_config.json", {"image_std": [1, 1, 1]}, r"image_std is \[1, 1, 1\]"),
    ],
)
def test_what_this_harness_does_not_run_is_refused(tiny, tmp_path, file, change, sentence):
    """One sentence that names the file, of the model's config and of its processor's."""
    save(tiny, tmp_path)
    path = tmp_path / file
    declared = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**declared, **change}))
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load("gemma-3-4b", weights=tmp_path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    """For a model that is not installed it says what to fetch, for an unknown one which are known."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"gemma-3-12b: .*run 'harness weights get gemma-3-12b'"):
        load("gemma-3-12b")
    with pytest.raises(CheckpointError, match=r"unknown full-size Gemma 3 'mini-nano'; known: gemma-3-12b"):
        full_size_config("mini-nano")


def test_no_adapter_is_trained(tiny):
    """Training packs dialogues in one direction, and refuses this model before it begins."""
    with pytest.raises(UnavailableError, match="tiny: training packs questions for LLaVA-OneVision"):
        adapter.attach(tiny, 4, 8, 0.0)
