"""``harness weights``: published weights, of models and of learned image codecs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Command, group

app = group(
    "weights",
    r"""Fetch the checkpoints of models, and convert those of learned image codecs.

    Models are fetched from the Hugging Face hub into its own cache (`$HF_HOME`, else `~/.cache/huggingface`), where
    scenarios and other programs find them.

        harness weights list
        harness weights get llava-onevision-7b
        harness weights convert bmshj2018-hyperprior-3-6d87be32.pth.tar \
          weights/hyperprior-3.safetensors""",
)

_TIMEOUT_S = 600


@app.command("list", cls=Command)
def list_() -> None:
    """List every model that can be fetched: whether it is installed, its name on the hub, and its path."""
    from harness.models import files, hub

    for name, hub_id in hub.names().items():
        where = files.snapshot_of(hub_id) or files.hub_folder(hub_id)
        typer.echo(f"{name:<24}{hub.state(hub_id):<11}{hub_id}  {where}")


@app.command(cls=Command)
def get(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Models, by their names in 'harness weights list'.")
    ],
    revision: Annotated[
        str | None,
        typer.Option(
            help="A branch, tag or commit of the model's repository; scenarios use it until another is fetched.",
            show_default="the installed commit, else main",
        ),
    ] = None,
) -> None:
    """Download models from the Hugging Face hub. An interrupted download is resumed, and every file is checked.

    Only JSON and safetensors files are fetched, all of one commit. Scenarios find a model once it is complete.
    `docs/full_size.md` has the sizes. `HF_ENDPOINT` may name a mirror; `HF_TOKEN` is for models whose licence must be
    accepted.

        harness weights get llava-onevision-7b llava-onevision-0.5b
    """
    from harness.cli.display import Bar, terminal
    from harness.models import hub

    console = terminal()
    for name in names:
        hub.find(name)
    for name in names:
        with Bar(console, name, sized=True) as bar:
            folder = hub.get(name, revision=revision, progress=bar)
        console.print(f"{name}: {folder}", soft_wrap=True, highlight=False)


@app.command(cls=Command)
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint as torch.save writes it: .pth.tar, .pt.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write; it must not exist yet.")],
) -> None:
    r"""Make a safetensors file of a checkpoint that is a pickle, such as CompressAI's published weights.

    Only this command opens a pickle, with `torch.load(weights_only=True)` and in a process of its own; all others read
    safetensors. The state dict may be under `state_dict` or `network` and its keys under `module.`; older layouts of
    CompressAI are converted to the current one.

        harness weights convert bmshj2018-hyperprior-3-6d87be32.pth.tar \
          weights/hyperprior-3.safetensors
    """
    from harness import catalog
    from harness.errors import CheckpointError

    command = [sys.executable, "-m", catalog.WEIGHTS_CONVERTER, str(file), str(out)]
    # The child may import from the working folder only if this process does so too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{file}: is not read after {_TIMEOUT_S} s; nothing was written") from None
    if done.returncode == 2 and done.stderr:
        raise CheckpointError(done.stderr.strip())
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CheckpointError(
            f"{file}: the process that reads it ended with status {done.returncode}: {last}; nothing was written"
        )
    typer.echo(done.stdout.strip())
