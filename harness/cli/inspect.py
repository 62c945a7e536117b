"""``harness inspect``: where the bits of a TOFC stream went."""

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOFC stream.")],
    codec: Annotated[
        Path | None,
        typer.Option(help="The checkpoint that wrote it. Default: the one in the zoo that its header names."),
    ] = None,
) -> None:
    """Show where the bits of a TOFC stream went: header, experts, z and y.

    harness inspect payload.tofc
    """
    from harness.backbones.checkpoint import ZOO
    from harness.errors import BitstreamError
    from harness.tofc.bitstream import read_header
    from harness.tofc.codec import TofcCodec, find

    try:
        stream = file.read_bytes()
    except OSError as error:
        raise BitstreamError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        header = read_header(stream)
        typer.echo(
            f"{file}: {len(stream)} bytes of model {header.model.hex()}, grid {header.grid[0]} x {header.grid[1]}: "
            f"{header.n_patches} patches of {header.n_clusters} features"
        )
        path = codec or find(header.model, ZOO)
        if path is None:
            typer.echo(f"no checkpoint of model {header.model.hex()} in {ZOO}: give one with --codec to see more")
            return
        decoded = TofcCodec.load(path).decompress(stream)
    except BitstreamError as error:
        raise BitstreamError(f"{file}: {error}") from None
    budget = decoded.budget
    parts = {"header": budget.header_bits, "experts": budget.expert_bits, "z": budget.z_bits, "y": budget.y_bits}
    for name, bits in parts.items():
        typer.echo(f"  {name:<8}{bits:>9} bits {bits / 8:>10.1f} bytes {100 * bits / budget.total_bits:>6.1f} %")
    typer.echo(f"  {budget.y_bits / decoded.y_PCD.numel():.3f} bits for each element of y")
    use = decoded.expert_PC.flatten().bincount()
    typer.echo("  features of each expert: " + ", ".join(f"{e}: {n}" for e, n in enumerate(use.tolist()) if n))
