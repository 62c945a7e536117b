"""Questions about several pictures, through every kind of scheme and the parts of a real model of random weights."""

import io
from typing import Any

import pytest
import torch
from PIL import Image

from baselines.pillow_codecs import Jpeg, JpegPoint
from baselines.raw_features import RawFeatures, RawFeaturesPoint
from baselines.server_only import ServerOnly
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.models.contract import Untimed
from harness.profiling.clock import StageClock
from harness.schemes.contract import OperatingPoint, Payload
from harness.schemes.envelope import receive, unpack
from tests.one_request import sent_bytes
from tests.small_models import make_backbone

QUESTION = Question(
    text="Is <image 2> as red as <image 1>?", kind="choice", options={"A": "yes", "B": "as <image 1>"}, marked=True
)
IMAGE_STAGES = ({"encode"}, {"decode", "preprocess", "vision_encode", "project", "prefill", "generate"})
FEATURE_STAGES = ({"preprocess", "vision_encode", "encode"}, {"decode", "project", "prefill", "generate"})
SCHEMES: dict[str, tuple[Any, OperatingPoint, tuple[set[str], set[str]]]] = {
    "server_only": (ServerOnly, OperatingPoint(), IMAGE_STAGES),
    "jpeg": (Jpeg, JpegPoint(quality=80), IMAGE_STAGES),
    "jpeg, merged": (Jpeg, JpegPoint(quality=80, merge_to=0.25), (IMAGE_STAGES[0], IMAGE_STAGES[1] | {"merge"})),
    "raw_features": (RawFeatures, RawFeaturesPoint(), FEATURE_STAGES),
    "raw_features, merged": (
        RawFeatures,
        RawFeaturesPoint(merge_to=0.25),
        (FEATURE_STAGES[0] | {"merge"}, FEATURE_STAGES[1]),
    ),
}


def file(colour, size):
    """A picture of one colour as a PNG file."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def sample(*files, question=QUESTION):
    """A question about these files."""
    return Sample(
        id="q", image_bytes=files[0], more_images=files[1:], question=question, truth="A", category="", group="q"
    )


RED, BLUE, GREEN = file("red", (70, 40)), file("blue", (30, 30)), file("green", (30, 50))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMES)
def test_each_picture_is_sent_as_if_it_were_alone(models, name: str) -> None:
    """The payload has the body of each picture alone, and the answer is that of their tokens in their places."""
    scheme, point, (of_device, of_server) = SCHEMES[name]
    device, server = scheme.device_half(models, point), scheme.server_half(models, point)
    alone = [sent_bytes(device, sample(one)) for one in (RED, BLUE)]
    bodies = [unpack(data, scheme.kind).bodies[0] for data in alone]
    clocks = StageClock(), StageClock()
    both = sample(RED, BLUE)
    data = sent_bytes(device, both, clocks[0])
    assert unpack(data, scheme.kind).bodies == tuple(bodies)
    assert len(data) == sum(map(len, bodies)) + 12 + 4
    (answer,) = receive(server, data, [both.question], clocks[1], kind=scheme.kind)
    assert (set(clocks[0].seconds), set(clocks[1].seconds)) == (of_device, of_server)

    text = Question(text="?", kind="open")
    counts = [receive(server, one, [text], Untimed(), kind=scheme.kind)[0].visual_tokens for one in alone]
    # The red one is shown twice.
    assert answer.visual_tokens == 2 * counts[0] + counts[1]


@pytest.mark.parametrize("name", SCHEMES)
def test_a_question_about_one_picture_refuses_three(models, name: str) -> None:
    """The numbers of pictures in payload and question must agree."""
    scheme, point, _ = SCHEMES[name]
    three = sent_bytes(scheme.device_half(models, point), sample(RED, BLUE, GREEN))
    server = scheme.server_half(models, point)
    with pytest.raises(BitstreamError, match="a payload of 3 pictures came with a question about 1"):
        receive(server, three, [Question(text="?", kind="open")], Untimed(), kind=scheme.kind)


def test_tokens_replace_their_marks() -> None:
    """A prompt is its texts' embeddings with each picture's tokens in its mark's place."""
    backbone = make_backbone()
    red_TH, blue_TH = (torch.full((3, 32), value) for value in (1.5, -2.5))
    prompt_TH = backbone.prompt([red_TH, blue_TH], QUESTION)

    def text(words):
        ids = backbone.tokenizer.encode(words, add_special_tokens=False).ids
        return backbone.model.get_input_embeddings()(torch.tensor(ids))

    wanted = [
        text("<|im_start|>user\nQuestion: Is "), blue_TH, text("\n as red as "), red_TH,
        text("\n?\nOptions:\nA. yes\nB. as "), red_TH,
        text("\n\nPlease select the correct answer from the options above. \n<|im_end|>\n<|im_start|>assistant\n"),
    ]  # fmt: skip
    torch.testing.assert_close(prompt_TH, torch.cat(wanted))
    assert prompt_TH.requires_grad


def test_a_picture_that_was_not_sent_is_an_error(models) -> None:
    """A payload with fewer pictures than the question shows is refused, even without an envelope."""
    server = ServerOnly.server_half(models, OperatingPoint())
    with pytest.raises(BitstreamError, match="shows picture 2, and the payload holds 1"):
        server(Payload("file", (RED,)), [QUESTION], Untimed())
