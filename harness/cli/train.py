"""``harness train``: Algorithm 1, in miniature and at full size."""

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from harness.training.config import Stage as StageName


class Stage(enum.StrEnum):
    """What of a configuration is trained."""

    whole = enum.auto()
    codec = enum.auto()
    merging = enum.auto()


def train(
    config: Annotated[Path, typer.Argument(help="Configuration file; training/ has several.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the configuration; may be repeated."),
    ] = None,
    stage: Annotated[
        Stage,
        typer.Option(
            help="Train only the codec, on frozen features, or only adapter and projector, for merged features."
        ),
    ] = Stage.whole,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Read configuration, backbone and data, print the plan, and exit."),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over and delete what is in the folder.")] = False,
) -> None:
    r"""Train a codec with the backbone's adapter and projector, for one lambda.

    The loss is L = D + lambda R + L_balance: D the answers' cross entropy, R the bits per element of merged features.
    A larger lambda gives smaller streams and worse answers. With `lora.rank` 0 the backbone stays frozen. A pre-fit on
    cached features (`prefit.steps`) does most of the work cheaply; the joint training (`steps` or `epochs`) follows.
    `--dry-run` prints the budget, what the recipe adds to the paper's, and T, lambda and learning rates by step.

    `--stage codec` fits only the entropy models: no LoRA, and features of frozen weights, cached once. The result is
    used like that of a full training, and labelled codec only. A folder of pictures is enough:
    `data: {kind: pictures, folder: ...}`. `--stage merging` tunes adapter and projector for merged features with only
    the distortion as the loss, as the paper does for its image codecs (V-A3) and, with `scheme`, for the methods that
    Table I compares with merging. The name and the folder of such a training end with the stage.

        harness train training/mini_smoke.yaml
        harness train training/mini_onevision.yaml --dry-run
        harness train training/mini_onevision.yaml --set lambda=0.3 \
          --set out=build/training/lambda-0.3
        harness train training/llava_onevision_7b.yaml --stage codec \
          --set 'data={kind: pictures, folder: photos}'
        harness train training/mini_onevision.yaml --stage merging \
          --set scheme=visionzip --set 'clusters=[4]'
        torchrun --nproc_per_node 8 -m harness train \
          training/llava_onevision_7b.yaml

    The folder `out` then holds `codec.safetensors`, `adapter/` in peft's format, `manifest.json`, `card.md`, and
    `log.jsonl` with a line for every `log_every` steps. The scheme `tofc` takes the folder as its point's `codec:`.
    Repeat the command to resume a training that was stopped or killed, from its last checkpoint (`save_every`).
    """
    from harness.cli.display import Display, terminal
    from harness.profiling.machine import this_machine
    from harness.training.load import load, refuse_folders

    wanted = load(config, settings or (), cast("StageName", stage.value))
    refuse_folders(config, wanted, settings or ())
    # torch, accelerate and transformers take seconds to import.
    from harness.training import result
    from harness.training.loop import Training

    training = Training(wanted, machine=this_machine())
    if dry_run:
        typer.echo(training.plan())
        return
    if not fresh and training.is_complete:
        typer.echo(f"{wanted.out}: is complete; use --fresh to train it again")
        return
    console = terminal(quiet=not training.accelerator.is_main_process, soft_wrap=True)
    with Display(console) as display:
        folder = training.run(display, fresh=fresh)
    console.print(f"{folder}: {result.summary(folder)}")
