"""Questions about several pictures, through every kind of scheme and a real backbone of random weights."""

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.jpeg import Jpeg, JpegPoint
from baselines.raw_features import RawFeatures, RawFeaturesPoint
from baselines.server_only import ServerOnly
from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.profiling.clock import StageClock, Untimed
from harness.schemes import pictures
from harness.schemes.contract import OperatingPoint, Payload

QUESTION = Question(
    text="Is <image 2> as red as <image 1>?", kind="choice", options={"A": "yes", "B": "as <image 1>"}, marked=True
)
SCHEMES = {
    "server_only": (ServerOnly, OperatingPoint()),
    "jpeg": (Jpeg, JpegPoint(quality=80)),
    "jpeg, merged": (Jpeg, JpegPoint(quality=80, merge_to=0.25)),
    "raw_features": (RawFeatures, RawFeaturesPoint()),
    "raw_features, merged": (RawFeatures, RawFeaturesPoint(merge_to=0.25)),
}


def file(colour, size):
    """A picture of one colour as a PNG file."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def sample(*files, question=QUESTION):
    """A question about these files."""
    return Sample(
        id="q",
        image_bytes=files[0],
        more_images=files[1:],
        question=question,
        truth="A",
        category="",
        group="q",
    )


RED, BLUE = file("red", (70, 40)), file("blue", (30, 30))


@pytest.mark.parametrize("name", SCHEMES)
def test_each_picture_is_sent_as_if_it_were_alone(backbone, name):
    """The payload holds what each picture's own would be, and the answer is that of their tokens in their places."""
    kind, point = SCHEMES[name]
    scheme = kind(backbone, point)
    alone = [scheme.on_device(sample(one), Untimed()).body for one in (RED, BLUE)]
    clock = StageClock()
    payload = scheme.on_device(sample(RED, BLUE), clock)
    assert pictures.unpack(payload.body) == alone
    assert len(payload.body) == sum(map(len, alone)) + 4 + 1 + 8
    (answer,) = scheme.on_server(payload, [QUESTION], clock)
    stages = {*kind.device_stages, *kind.server_stages} - (set() if point.model_dump().get("merge_to") else {"merge"})
    assert set(clock.seconds) == stages

    text = Question(text="?", kind="open")
    counts = [scheme.on_server(Payload(payload.kind, one), [text], Untimed())[0].visual_tokens for one in alone]
    # The red one is shown twice.
    assert answer.visual_tokens == 2 * counts[0] + counts[1]


def test_tokens_stand_where_their_marks_are(backbone):
    """A prompt is its texts' embeddings with each picture's tokens in its mark's place."""
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


def test_a_picture_that_was_not_sent_is_an_error(backbone):
    """A payload with fewer pictures than the question shows is no answer's."""
    scheme = ServerOnly(backbone, OperatingPoint())
    with pytest.raises(BitstreamError, match="shows picture 2, and the payload holds 1"):
        scheme.on_server(Payload("file", RED), [QUESTION], Untimed())


@given(st.lists(st.binary(max_size=30).filter(lambda body: not body.startswith(b"PICS")), min_size=1, max_size=6))
def test_what_is_packed_is_unpacked(bodies):
    """Packing is undone by unpacking, and a single picture costs no byte."""
    packed = pictures.pack(bodies)
    assert pictures.unpack(packed) == bodies
    assert len(packed) == sum(map(len, bodies)) + (5 + 4 * len(bodies) if len(bodies) > 1 else 0)


@given(st.lists(st.binary(max_size=30), min_size=2, max_size=4), st.data())
def test_damage_is_told(bodies, data):
    """A payload cut short, drawn out, or that announces no pictures is refused; never read beyond its end."""
    packed = pictures.pack(bodies)
    for damaged in (packed[: data.draw(st.integers(4, len(packed) - 1))], packed + b"x", b"PICS\0", b"PICS\1aaaaa"):
        with pytest.raises(BitstreamError, match="announces"):
            pictures.unpack(damaged)
