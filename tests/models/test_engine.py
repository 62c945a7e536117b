"""The engine: prompts that are read together get the answers of one at a time."""

import pytest
import torch

from harness.data.sample import Question
from harness.errors import CheckpointError, SchemeError
from harness.models import engine
from harness.models.contract import Request, Sharing, Untimed
from harness.profiling.clock import StageClock
from tests.small_models import make_backbone, make_backbone15

ASKED = [
    Question(text="Which colour has the bus behind the lamp?", kind="choice", options={"A": "red", "B": "x"}),
    Question(text="Is it red?", kind="yes_no"),
    Question(text="Which colour has the van?", kind="choice", options={"A": "green", "B": "blue", "C": "black"}),
]


def picture(seed, *, n_tokens=12, width=32):
    """Visual tokens (T, H)."""
    return torch.randn(n_tokens, width, generator=torch.Generator().manual_seed(seed))


def answered(backbone, requests, clock):
    """What is answered to each request, on clocks of a kind."""
    return backbone.answer(requests, [clock() for _ in requests])


@pytest.fixture
def read_alone(monkeypatch):
    """The prompts that are read one at a time."""
    seen: list[int] = []
    alone = engine.TransformersEngine._alone

    def noted(self, prompt, clock):
        seen.append(1)
        return alone(self, prompt, clock)

    monkeypatch.setattr(engine.TransformersEngine, "_alone", noted)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_backbone, make_backbone15])
@pytest.mark.parametrize("seed", range(4))
def test_questions_read_together_are_answered_as_alone(make, seed, read_alone) -> None:
    """Answers and token counts are those of one prompt at a time; not all prompts are read again."""
    backbone = make(seed)
    shown, other = picture(seed), picture(seed + 100)
    asked = again = 0
    for requests in (
        [Request([shown], question) for question in ASKED],
        [Request([shown if i % 2 else other], question) for i, question in enumerate(ASKED)],
        [Request([shown], ASKED[0])] * (engine._AT_ONCE + 2),
        [Request([seen], question) for seen in (shown, other[:9], picture(seed, n_tokens=60)) for question in ASKED],
    ):
        wanted = answered(backbone, requests, Untimed)
        assert len(read_alone) == len(requests)
        read_alone.clear()
        assert answered(backbone, requests, Sharing) == wanted
        asked, again = asked + len(requests), again + len(read_alone)
        read_alone.clear()
    assert again < asked


def test_a_token_in_doubt_is_read_again_by_itself(monkeypatch, tiny, read_alone) -> None:
    """A prompt with a token whose lead is within rounding is answered one at a time."""
    requests = [Request([picture(0)], question) for question in ASKED]
    wanted = answered(tiny, requests, Untimed)
    read_alone.clear()
    monkeypatch.setattr(engine, "_BEYOND_DOUBT", 2.0)
    assert answered(tiny, requests, Sharing) == wanted
    assert len(read_alone) == len(requests)


def test_a_lead_is_a_part_of_the_largest_logit() -> None:
    """A token is decided if it leads the next by more than rounding, at any scale; never with undefined logits."""
    logits_BL = torch.tensor([[9.0, -10.0, 8.9], [9.0, -10.0, 8.995], [float("nan")] * 3])
    for scale in (1.0, 1e4):
        tokens, is_sure = engine._decided(logits_BL * scale)
        assert tokens[:2] == [0, 0]
        assert is_sure == [True, False, False]


@pytest.mark.parametrize("n_shared", [(0, 0), (1, 30), (30, 0)])
def test_branches_do_not_see_each_other(tiny, n_shared) -> None:
    """The hidden states of prompts read side by side are those of each read by itself, token after token."""
    model = tiny._engine.language.model
    shared = [picture(20 + n, n_tokens=n) for n in n_shared]
    own = {
        (group, owner): picture(2 + owner, n_tokens=n) for group in (0, 1) for owner, n in enumerate((5, 1, 9)[group:])
    }
    with torch.inference_mode():
        branches = engine._Branches(model, shared)
        read = [engine._Piece(group, owner, own[group, owner], n_shared[group]) for group, owner in own]
        first_BH = branches.read(read)
        # Then one more token of two of them, in another order, and of one group alone.
        more = [(1, 1), (0, 2)], [(0, 0)]
        more_BH = []
        for keys in more:
            pieces = [engine._Piece(*key, picture(9, n_tokens=1), n_shared[key[0]] + len(own[key])) for key in keys]
            more_BH.append(branches.read(pieces))
        for piece, hidden_H in zip(read, first_BH, strict=True):
            whole_TH = torch.cat([shared[piece.group], piece.embeds_TH])
            torch.testing.assert_close(hidden_H, model(inputs_embeds=whole_TH[None])[0][0, -1], rtol=1e-5, atol=1e-5)
        for key, hidden_H in zip([*more[0], *more[1]], torch.cat(more_BH), strict=True):
            whole_TH = torch.cat([shared[key[0]], own[key], picture(9, n_tokens=1)])
            torch.testing.assert_close(hidden_H, model(inputs_embeds=whole_TH[None])[0][0, -1], rtol=1e-5, atol=1e-5)


def test_prompts_that_are_read_together_are_alike() -> None:
    """A group shows the same pictures, up to the limit of one; a batch's groups are of similar length."""

    def prompt(seed: int, n_shown: int, n_asked: int) -> engine.Prompt:
        return engine.Prompt(
            torch.cat([picture(seed, n_tokens=n_shown), picture(99, n_tokens=n_asked)]), ((0, n_shown),)
        )

    same = [prompt(1, 10, n) for n in (2, 5)]
    others = [prompt(2, 10, 3), prompt(1, 40, 2), prompt(1, 12, 2), prompt(3, 5000, 1)]
    assert engine._batches([*same, *others]) == [[[2], [4], [0, 1]], [[3]], [[5]]]
    assert engine._batches([same[0]] * (engine._AT_ONCE + 1)) == [[list(range(engine._AT_ONCE)), [engine._AT_ONCE]]]
    long = [prompt(seed, 1500, 2) for seed in range(3)]
    assert engine._batches(long) == [[[0], [1]], [[2]]]


def test_the_common_beginning_of_prompts() -> None:
    """Of prompts that are equal to the end of one, each has at least one token of its own."""
    long_TH = picture(0)
    changed_TH = long_TH.clone()
    changed_TH[4, 3] += 1
    assert engine._n_alike([long_TH, changed_TH]) == 4
    assert engine._n_alike([long_TH, long_TH[:7], long_TH]) == 6
    assert engine._n_alike([long_TH, changed_TH, long_TH[:2]]) == 1
    assert engine._n_alike([long_TH + 1, long_TH]) == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_type", "gemma3_text"),
        ("layer_types", ["sliding_attention"] * 2),
        ("rope_parameters", {"rope_type": "dynamic"}),
        ("_attn_implementation", "eager"),
    ],
)
def test_other_attention_is_read_one_at_a_time(monkeypatch, tiny, setting, value) -> None:
    """A model whose attention needs more than a mask, or whose positions depend on the length, reads one at a time."""
    clocks = [Sharing(), Sharing()]
    assert tiny._engine._reads_together(clocks)
    assert not tiny._engine._reads_together([Sharing(), Untimed()])
    assert not tiny._engine._reads_together(clocks[:1])
    monkeypatch.setattr(tiny._engine.language.model.config, setting, value, raising=False)
    assert not tiny._engine._reads_together(clocks)


def test_half_precision_and_masks_are_read_one_at_a_time(monkeypatch) -> None:
    """If rounding changes every answer's lead, or attention is not only causal, nothing is read together."""
    backbone = make_backbone()
    with monkeypatch.context() as patched:
        patched.setattr(backbone._engine, "_masks", lambda *_: None)
        assert not backbone._engine._reads_together([Sharing(), Sharing()])
    backbone.model.bfloat16()
    assert not backbone._engine._reads_together([Sharing(), Sharing()])


def test_an_engine_answers_every_prompt(monkeypatch, tiny) -> None:
    """One that leaves some out is named."""
    answer = tiny._engine.answer
    monkeypatch.setattr(tiny._engine, "answer", lambda prompts, clocks: answer(prompts, clocks)[1:])
    with pytest.raises(SchemeError, match="the engine TransformersEngine answered 1 of 2 prompts"):
        tiny.answer([Request([picture(1)], question) for question in ASKED[:2]], [Sharing()] * 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [1, 2])
def test_logits_that_are_no_numbers_are_no_answer(n: int, value: float) -> None:
    """The token of an undefined logit would be scored as a wrong answer; nothing is looked at where it is timed."""
    backbone = make_backbone(0)
    backbone.model.lm_head.weight.data[7, 0] = value
    requests = [Request([picture(1)], question) for question in ASKED[:n]]
    for clock in (Untimed, Sharing):
        with pytest.raises(CheckpointError, match=r"logits, computed in float32, are infinite or no numbers \(NaN\)"):
            answered(backbone, requests, clock)
    assert len(answered(backbone, requests, StageClock)) == n
