"""``harness weights``: published weights for this project."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.app import Command, group

app = group("weights", "Weights of learned image codecs.")

_TIMEOUT_S = 600


@app.callback()
def _weights() -> None: ...


@app.command(cls=Command)
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint as torch.save writes it: .pth.tar, .pt.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write; it must not exist yet.")],
) -> None:
    """Make a safetensors file of a checkpoint that is a pickle, such as CompressAI's published weights.

    This command alone opens a pickle, with `torch.load(weights_only=True)` and in a process of its own; all others
    read safetensors. The state dict may be under `state_dict` or `network` and its keys under `module.`; older layouts
    of CompressAI are written as today's.

        harness weights convert bmshj2018-hyperprior-3-6d87be32.pth.tar hyperprior-3.safetensors
    """
    from harness import catalog
    from harness.errors import CheckpointError

    command = [sys.executable, "-m", catalog.WEIGHTS_CONVERTER, str(file), str(out)]
    # The folder that the command was given in is no place to import from, unless this process does so too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{file}: is not read after {_TIMEOUT_S} s; nothing was written") from None
    if done.returncode == 2 and done.stderr:
        raise CheckpointError(done.stderr.strip())
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CheckpointError(
            f"{file}: the process that reads it ended with status {done.returncode}: {last}; nothing was written"
        )
    typer.echo(done.stdout.strip())
