"""``harness inspect``: the kind of a payload, and the bits of each of its parts."""

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A payload: the bytes that one request sends.")],
    codec: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint that wrote a TOFC stream. Default: the bundled one that the stream's header names."
        ),
    ] = None,
) -> None:
    """Print the kind of a payload and the bits of each of its parts.

    The kind is recognised by the first bytes. The parts are:

    - **TOFC** and its ablations: header, experts (the entropy models' indices), z (side information), y (the features).

    - **hyperprior, ELIC**: header, z, y; of ELIC also the bytes of each group of channels.

    - **raw_features**: header, features in half precision.

    - **JPEG**: headers, quantisation and Huffman tables, coefficients; and libjpeg's quality, from the tables.

    - **WebP**: container, frame header, modes, coefficients.

    - **AVIF, JPEG XL**: the picture's size, and the file as a whole.

    - **server_only** sends the benchmark's own file: a JPEG or WebP is shown as above, any other only by its size.

    A payload with or without its envelope is accepted, and is shown picture by picture. Try it with any JPEG or WebP
    file. For any other file the exit status is 2.

        harness inspect payload.tofc

        harness inspect photo.jpg

        harness inspect payload.tofc --codec build/mine/codec.safetensors
    """
    from harness.errors import BitstreamError
    from harness.files import why
    from harness.schemes import anatomy, envelope

    try:
        body = file.read_bytes()
    except OSError as error:
        raise BitstreamError(f"{file}: cannot be read: {why(error)}") from None
    try:
        bodies = envelope.opened(body)[1] if envelope.is_one(body) else (body,)
        found = [anatomy.of_body(of_picture, codec) for of_picture in bodies]
    except BitstreamError as error:
        raise BitstreamError(f"{file}: {error}") from None
    if around := len(body) - sum(map(len, bodies)):
        pictures = f"{len(bodies)} picture{'s' * (len(bodies) > 1)}"
        typer.echo(f"{file}: {len(body)} bytes, {pictures} in an envelope of {around} bytes")
    for number, (of_picture, parts) in enumerate(zip(bodies, found, strict=True), 1):
        name = str(file) if len(bodies) == 1 else f"picture {number}"
        typer.echo(f"{name}: {len(of_picture)} bytes, {parts.what}")
        width = max(map(len, parts.bits))
        for part, bits in parts.bits.items():
            share = bits / (8 * len(of_picture))
            typer.echo(f"  {part:<{width}}{bits:>9} bits {bits / 8:>10.1f} bytes {share:>7.1%}")
        for note in parts.notes:
            typer.echo(f"  {note}")
