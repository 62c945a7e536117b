"""Training as a whole, on tiny random models: the loss, the written files, a stop, and two processes."""

import ast
import contextlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.cli import main
from harness.data.sample import Question, Sample
from harness.errors import CheckpointError, ScenarioError
from harness.models.contract import Untimed
from harness.models.files import PARTS
from harness.models.onevision import load as load_onevision
from harness.runs import disk
from harness.schemes.envelope import receive, send
from harness.schemes.tofc import Tofc, TofcPoint
from harness.tofc.codec import TofcCodec
from harness.tofc.trained import adapter_beside, find_codec
from harness.training import loop
from harness.training.load import load
from harness.training.loop import Training
from tests.forked import forked

pytestmark = pytest.mark.slow


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights that a training's folder holds."""
    adapter = folder / "adapter" / "adapter_model.safetensors"
    return {**load_file(folder / "codec.safetensors"), **(load_file(adapter) if adapter.exists() else {})}


def test_from_zero_the_loss_falls_and_the_streams_decode(
    write_config: Callable[..., Path], train: Callable[..., Any], tmp_path: Path, onevision_folder: Path
) -> None:
    """D + lambda R falls; tower, language model, projector and codec all move; the scheme answers with the result."""
    reporter = train(write_config(steps=24, log_every=6, prefit={"steps": 12, "pictures": 4, "batch": 2}))
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [ast.literal_eval(line) for line in reporter.lines] == log
    assert [entry["step"] for entry in log] == [6, 12, 18, 24, 30, 36]
    assert log[-1]["D"] + 0.1 * log[-1]["R"] < 0.9 * (log[0]["D"] + 0.1 * log[0]["R"])
    assert log[-1]["R"] < log[0]["R"]
    assert log[0]["loss"] == pytest.approx(log[0]["D"] + 0.1 * log[0]["R"] + log[0]["balance"], abs=1e-4)
    joint = [10 * 0.01 ** (step / 17) for step in (5, 11, 17)]
    assert [entry["T"] for entry in log] == pytest.approx([10, 10, *joint, 0], abs=1e-3)

    moved = {name: t for name, t in weights(tmp_path / "out").items() if "lora_B" in name}
    assert any("vision_tower" in name for name in moved)
    assert all(t.abs().max() > 0 for t in moved.values())
    assert any("multi_modal_projector" in name for name in weights(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["steps"] == {"prefit": 12, "joint": 24}
    assert manifest["config"]["lambda"] == 0.1
    assert str(tmp_path / "out") not in json.dumps(manifest)
    assert [row["n_clusters"] for row in manifest["held_out"]["rows"]] == [2, 3]
    assert "| 3 |" in (tmp_path / "out" / "card.md").read_text()
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()

    models = load_onevision("mini-onevision", weights=onevision_folder)
    language: Any = models.language()
    sides = (models.vision().vision_tower, language._engine.language)
    plain = [{name: t.clone() for name, t in side.state_dict().items()} for side in sides]
    point = TofcPoint(codec=str(tmp_path / "out"), merge_to=3 / 16)
    # Their parts are taken out, which the contract of halves does not have.
    device: Any = Tofc.device_half(models, point)
    server: Any = Tofc.server_half(models, point)
    sample = Sample(
        id="0",
        image_bytes=(tmp_path / "images" / "some" / "1.png").read_bytes(),
        question=Question(text="Is it bright?", kind="yes_no"),
        truth="Yes",
        category="",
        group="0",
    )
    data = send(device, sample, Untimed())
    assert isinstance(data, bytes)
    (answer,) = receive(server, data, [sample.question], Untimed(), kind=Tofc.kind)
    assert answer.visual_tokens == 3 * len(models.vision().preprocess(sample.image()).pixels_PCHW)
    for side, before in zip((models.vision().vision_tower, language._engine.language), plain, strict=True):
        assert all(torch.equal(t, before[name]) for name, t in side.state_dict().items())
    for side, before in zip((device.vision.vision_tower, server.language._engine.language), plain, strict=True):
        assert all(not torch.equal(t, before[n]) for n, t in side.state_dict().items() if n.endswith("q_proj.weight"))
    pairs = (server.language, language)
    assert not torch.equal(*(side.projector.linear_1.weight for side in pairs))


@pytest.mark.parametrize("stop_after", [3, 11])
def test_a_resumed_training_ends_as_an_uninterrupted_one(
    write_config: Callable[..., Path], train: Callable[..., Any], tmp_path: Path, stop_after: int
) -> None:
    """Stopped in the pre-fit or in the joint training, between checkpoints, and resumed: the same weights and log."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    config = write_config()
    train(config, f"out={whole}")
    with pytest.raises(KeyboardInterrupt):
        train(config, f"out={stopped}", stop_after=stop_after)
    with (stopped / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 4, "loss": 0.')  # What a kill leaves of a line.
    with safe_open(stopped / "checkpoint.safetensors", "pt") as file:
        state = json.loads(file.metadata()["state"])
    assert (state["stage"], state["steps"]) == (("prefit", 2) if stop_after == 3 else ("joint", 4))
    train(config, f"out={stopped}")
    first, second = weights(whole), weights(stopped)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    steps = [
        [json.loads(line)["step"] for line in (f / "log.jsonl").read_text().splitlines()] for f in (whole, stopped)
    ]
    assert steps[0] == steps[1] == [2, 4, 6, 8, 10, 12]


def test_the_same_seed_trains_the_same_weights(
    write_config: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    """Twice the same, bit for bit: the second training reads the pre-fit's features that the first one cached."""
    prefit = {"steps": 6, "pictures": 4, "batch": 2, "cache": str(tmp_path / "cache")}
    for name in ("first", "second"):
        train(write_config(clusters=[3, 2], prefit=prefit, out=str(tmp_path / name)))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys()
    assert [name for name, t in first.items() if not torch.equal(t, second[name])] == []


def test_an_unfinished_training_of_another_configuration_is_not_resumed(
    write_config: Callable[..., Path], train: Callable[..., Any]
) -> None:
    """Another lambda over the same folder is refused; a finished folder says that it is complete."""
    config = write_config()
    with pytest.raises(KeyboardInterrupt):
        train(config, stop_after=3)
    with pytest.raises(ScenarioError, match="an unfinished training of another configuration"):
        train(config, "lambda=0.2")
    train(config)
    assert Training(load(config), machine={}).is_complete
    with pytest.raises(ScenarioError, match="the result of another configuration"):
        assert Training(load(config, ["lambda=0.2"]), machine={}).is_complete


def test_a_fresh_start_that_is_killed_leaves_no_complete_training(
    write_config: Callable[..., Path], train: Callable[..., Any], silent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it had deleted by then; and what an earlier kill left unfinished goes."""
    config = write_config(prefit={"steps": 1, "pictures": 4, "batch": 2}, steps=0, lora={"rank": 0})
    train(config)
    training = Training(load(config), machine={})
    assert training.is_complete
    leftover = training.folder / ".unfinished-1-checkpoint.safetensors"
    leftover.mkdir()

    def discard(path: Path, whole: Any = disk.discard) -> None:
        if path.exists():
            whole(path)
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "discard", discard)
    with pytest.raises(KeyboardInterrupt):
        training.run(silent, fresh=True)
    assert not Training(load(config), machine={}).is_complete
    assert not leftover.exists()


def test_a_frozen_backbone_leaves_a_codec_alone(
    write_config: Callable[..., Path], train: Callable[..., Any], tmp_path: Path, onevision_folder: Path
) -> None:
    """Rank 0: no adapter; the scheme runs on the backbone itself, but not on other weights than it was made for."""
    train(write_config(lora={"rank": 0}, steps=0, prefit={"steps": 2, "pictures": 4, "batch": 2}))
    assert not (tmp_path / "out" / "adapter").exists()
    models = load_onevision("mini-onevision", weights=onevision_folder)
    path = find_codec("mini-onevision", str(tmp_path / "out"))
    assert adapter_beside(path, models, PARTS) is None
    assert TofcCodec.load(path).config.n_experts == 3
    changed = shutil.copytree(onevision_folder, tmp_path / "changed")
    tensors = load_file(onevision_folder / "model.safetensors")
    (newline,) = (name for name in tensors if name.endswith("image_newline"))
    save_file({**tensors, newline: tensors[newline] + 1}, changed / "model.safetensors", {"format": "pt"})
    models = load_onevision("mini-onevision", weights=changed)
    point = TofcPoint(codec=str(tmp_path / "out"), merge_to=3 / 16)
    assert Tofc.device_half(models, point)
    with pytest.raises(CheckpointError, match=r"was trained with weights .* of the projector of mini-onevision, and"):
        Tofc.server_half(models, point)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_llava15_trains_by_the_same_code(
    write_config: Callable[..., Path],
    train: Callable[..., Any],
    tmp_path: Path,
    llava15_folder: Path,
    precision: str,
) -> None:
    """One padded tile, CLIP and Llama, text among the examples; in mixed precision and recomputing activations."""
    config = write_config(
        backbone="llava-1.5-7b",
        weights=str(llava15_folder),
        precision=precision,
        gradient_checkpointing=precision == "bf16",
        workers=int(precision == "bf16"),
        steps=None,
        epochs=2,
        prefit=None,
        micro_batch=1,
    )
    train(config)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == round(2 * 7 / 4)
    names = [name for name, t in weights(tmp_path / "out").items() if "lora_B" in name and t.abs().max() > 0]
    assert {part for part in ("vision_tower", "language_model") if any(part in name for name in names)} == {
        "vision_tower",
        "language_model",
    }


def test_losses_and_gradient_do_not_depend_on_the_micro_batch(
    write_config: Callable[..., Path], tmp_path: Path, conversations: Path, silent: Any
) -> None:
    """Four examples, two of text alone, at once, in twos and one by one: the same D, R, balance and gradient."""
    entries = json.loads(conversations.read_text())
    texts = [
        {"id": f"words{n}", "conversations": [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes" * n}]}
        for n in (1, 4)
    ]
    conversations.write_text(json.dumps([*entries[:2], *texts, entries[5]]))
    config = write_config(
        lora={"rank": 2, "alpha": 4, "dropout": 0.0}, temperature={}, alpha=3.0, steps=1, log_every=1, held_out=1,
        prefit=None,
    )  # fmt: skip
    logs, gradients = [], []
    for size in (4, 2, 1):
        training = Training(load(config, [f"micro_batch={size}", f"out={tmp_path / str(size)}"]), machine={})
        with torch.no_grad():
            # A router with preferences, so that the balance loss has a gradient.
            training.codec.router.layers[-1].bias.copy_(torch.tensor([30.0, 0.0, -20.0]))
        clip = training.accelerator.clip_grad_norm_

        def recorded(parameters: list[Any], norm: float, clip: Any = clip) -> Any:
            gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).clone())
            return clip(parameters, norm)

        training.accelerator.clip_grad_norm_ = recorded
        training.run(silent)
        logs.append(json.loads((tmp_path / str(size) / "log.jsonl").read_text()))
    whole = logs[0]
    assert whole["balance"] > 0.1
    for name in ("loss", "D", "R", "balance"):
        assert [log[name] for log in logs] == pytest.approx([whole[name]] * 3, abs=3e-5), name
    for other in gradients[1:]:
        assert torch.allclose(other, gradients[0], rtol=1e-3, atol=1e-5 * float(gradients[0].abs().max()))


def test_two_processes_share_the_work(
    write_config: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    """With torchrun's variables they divide a step's examples, some of text: losses and gradients are one process's."""
    config = write_config(
        lora={"rank": 2, "alpha": 4, "dropout": 0.0}, prefit=None, steps=2, log_every=1, alpha=1.0, micro_batch=1
    )
    mixed = ("data.entries=5", "held_out=1")
    arguments = ["train", str(config), "--set", f"out={tmp_path / 'two'}"]
    arguments += [argument for setting in mixed for argument in ("--set", setting)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = [tmp_path / f"rank {rank}" for rank in range(2)]
    ranks = [forked(_rank, rank, port, arguments, said[rank]) for rank in range(2)]
    for process in ranks:
        process.join(120)
    for process in ranks:
        process.kill()
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0], said[0].read_text() + said[1].read_text()
    assert [text.read_text().count("'step': 2") for text in said] == [1, 0]
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["processes"] == 2
    train(config, *mixed, "micro_batch=4")
    one, two = (
        [json.loads(line) for line in (tmp_path / folder / "log.jsonl").read_text().splitlines()]
        for folder in ("out", "two")
    )
    for name, tolerance in (("D", 1e-3), ("R", 1e-3), ("balance", 1e-2), ("grad_norm", 1e-2)):
        assert [entry[name] for entry in two] == pytest.approx([entry[name] for entry in one], rel=tolerance), name


def _rank(rank: int, port: int, arguments: list[str], said: Path) -> None:
    """One process of two, identified by torchrun's variables."""
    two = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(two, RANK=str(rank), LOCAL_RANK=str(rank))
    # Variables of an earlier training in the process of which this one is a copy.
    AcceleratorState._reset_state(reset_partial_state=True)
    sys.argv = ["harness", *arguments]
    with said.open("w") as sys.stdout, contextlib.redirect_stderr(sys.stdout):
        main()


def test_a_pre_fit_is_not_resumed_on_another_number_of_processes(
    write_config: Callable[..., Path], train: Callable[..., Any], silent: Any, tmp_path: Path
) -> None:
    """Which pictures it draws follows from the number."""
    path = write_config(held_out=2)
    with pytest.raises(KeyboardInterrupt):
        train(path, stop_after=3)
    training = Training(load(path), machine={})
    training.share = training.share._replace(processes=2)
    with pytest.raises(ScenarioError, match="that began on 1 processes, and there are 2 now; resume it on"):
        training.run(silent)


def test_no_held_out_picture_is_trained_on(write_config: Callable[..., Path], conversations: Path) -> None:
    """Two entries of one picture are on one side, and the requested number of pictures is held out."""
    plain = Training(load(write_config(held_out=2)), machine={})
    assert (plain.held_out, len(plain.pool)) == ([7, 8], 7)
    given = json.loads(conversations.read_text())
    given[0]["image"], given[7]["image"] = given[8]["image"], "some/./7.png"
    conversations.write_text(json.dumps(given))
    training = Training(load(write_config(held_out=2)), machine={})
    shown = {side: {training.data.picture(index) for index in getattr(training, side)} for side in ("pool", "held_out")}
    assert shown["held_out"] == {"some/7.png", "some/5.png"}
    assert not shown["pool"] & shown["held_out"]
    assert "2 of them left out for their held-out picture" in training.plan()
