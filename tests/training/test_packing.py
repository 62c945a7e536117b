"""The packed loss: each dialogue as if it were alone, at the positions of the backbone's own prompt."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from harness.data.sample import Question
from harness.models.llava import Llava
from harness.models.llava15 import load as load_llava15
from harness.models.onevision import load as load_onevision
from harness.training.contract import Turn
from harness.training.packing import answer_losses, script

DIALOGUES = (
    (Turn("Is there a cat?", "Yes"),),
    (Turn("Where?", "left"), Turn("And the dog?", "on the right")),
    (Turn("How many?", "3"),),
)


@pytest.fixture(scope="module", params=["onevision", "llava15"])
def backbone(request: pytest.FixtureRequest, onevision_folder: Path, llava15_folder: Path) -> Llava:
    """A tiny backbone of each family."""
    if request.param == "onevision":
        return load_onevision("mini-onevision", weights=onevision_folder).backbone()
    return load_llava15("llava-1.5-7b", weights=llava15_folder).backbone()


def loss(backbone: Llava, pictures: list[torch.Tensor | None], *packed: tuple[tuple[Turn, ...], ...]) -> float:
    """D, the mean over the examples."""
    before = backbone.tokenizer.encode(backbone.template.before, add_special_tokens=False).ids
    scripts = [
        [
            script(backbone.tokenizer, backbone.template, one, image=picture is not None, max_tokens=500)
            for one in dialogues
        ]
        for picture, dialogues in zip(pictures, packed, strict=True)
    ]
    with torch.inference_mode():
        return float(answer_losses(backbone.model, before, pictures, scripts)[0].mean())


@pytest.fixture
def picture() -> torch.Tensor:
    """Some visual tokens."""
    return torch.randn(5, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_packed_dialogues_do_not_see_one_another(backbone: Llava, picture: torch.Tensor) -> None:
    """Together, beside a longer row and beside text alone, each has its loss alone; examples weigh the same."""
    alone = [loss(backbone, [picture], (one,)) for one in DIALOGUES]
    assert loss(backbone, [picture], DIALOGUES) == pytest.approx(sum(alone) / 3, rel=1e-5)
    text = loss(backbone, [None], (DIALOGUES[1],))
    together = loss(backbone, [None, picture], (DIALOGUES[1],), (DIALOGUES[0], DIALOGUES[2]))
    assert together == pytest.approx((text + (alone[0] + alone[2]) / 2) / 2, rel=1e-5)
    assert loss(backbone, [picture, None], (DIALOGUES[0],), (DIALOGUES[1],)) == pytest.approx(
        (alone[0] + text) / 2, rel=1e-5
    )


@pytest.mark.slow
def test_the_loss_is_that_of_the_prompt_at_inference(backbone: Llava, picture: torch.Tensor) -> None:
    """The cross entropy of the answer's tokens and its stop after the very embeddings that a request is read from."""
    question = Question(text="Is there a cat? Answer yes or no.", kind="yes_no")
    answer = backbone.tokenizer.encode("Yes" + backbone.template.stop, add_special_tokens=False).ids
    with torch.inference_mode():
        prompt_TH = backbone.prompt([picture], question)
        read_TH = torch.cat([prompt_TH, backbone.model.get_input_embeddings()(torch.tensor(answer[:-1]))])
        hidden_1TH = backbone.model.model.language_model(inputs_embeds=read_TH[None]).last_hidden_state
        wanted = cross_entropy(backbone.model.lm_head(hidden_1TH[0, -len(answer) :]), torch.tensor(answer))
    assert loss(backbone, [picture], ((Turn(question.text, "Yes"),),)) == pytest.approx(float(wanted), rel=1e-5)


def test_a_script_is_cut_at_its_length_and_may_lose_its_answer(backbone: Llava, picture: torch.Tensor) -> None:
    """No answer is no loss, and no error."""
    cut = script(backbone.tokenizer, backbone.template, DIALOGUES[0], image=True, max_tokens=4)
    assert (len(cut.ids), sum(cut.spoken)) == (4, 0)
    before = backbone.tokenizer.encode(backbone.template.before, add_special_tokens=False).ids
    with torch.inference_mode():
        assert answer_losses(backbone.model, before, [picture], [[cut]])[0].tolist() == [0.0]


def test_an_empty_answer_is_learned_as_its_end(backbone: Llava, picture: torch.Tensor) -> None:
    """A share of no tokens is 0: a training whose log is no number would stop."""
    template, tokenizer = backbone.template, backbone.tokenizer
    one = script(tokenizer, template, (Turn("Is there a lamp?", ""),), image=True, max_tokens=512)
    assert sum(one.spoken) == 1
    before = tokenizer.encode(template.before, add_special_tokens=False).ids
    (loss,), right = answer_losses(backbone.model, before, [picture], [[one]])
    assert loss > 0
    assert right == 0
