"""``harness inspect`` on real streams, found and unfound models, and damage."""

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from harness.cli.inspect import inspect
from harness.errors import BitstreamError
from harness.tofc.codec import CodecConfig, TofcCodec
from harness.tofc.trained import find_by_hash

app = typer.Typer()
app.command()(inspect)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    """A stream's file and the checkpoint that wrote it."""
    torch.manual_seed(0)
    codec, y_PCD = TofcCodec(CodecConfig(dim=32, n_experts=4)), torch.randn(5, 3, 32)
    codec.fit_scale(y_PCD)
    codec.freeze(y_PCD)
    codec.save(tmp_path / "codec.safetensors")
    (tmp_path / "image.tofc").write_bytes(codec.compress(y_PCD, (2, 2)))
    return tmp_path / "image.tofc", tmp_path / "codec.safetensors"


def test_the_parts_add_up_to_the_file(saved: tuple[Path, Path]) -> None:
    """The bits shown for header, experts, z and y sum to the file's."""
    stream, codec = saved
    result = CliRunner().invoke(app, [str(stream), "--codec", str(codec)])
    assert result.exit_code == 0, result.output
    bits = [
        int(line.split()[1])
        for line in result.output.splitlines()
        if " bits " in line and "bytes" in line and "%" in line
    ]
    assert sum(bits) == 8 * stream.stat().st_size
    assert "5 patches of 3 features" in result.output


def test_without_the_checkpoint_the_header_is_shown(saved: tuple[Path, Path]) -> None:
    """A stream of a model that the zoo lacks is described as far as its header goes."""
    stream, codec = saved
    result = CliRunner().invoke(app, [str(stream)])
    assert result.exit_code == 0
    assert "grid 2 x 2" in result.output
    assert "--codec" in result.output
    assert find_by_hash(stream.read_bytes()[3:7], codec.parent) == codec
    assert find_by_hash(b"none", codec.parent) is None


def test_damage_names_the_file(saved: tuple[Path, Path]) -> None:
    """A damaged or absent file is one sentence that begins with its name."""
    stream, codec = saved
    stream.write_bytes(stream.read_bytes()[:-1])
    with pytest.raises(BitstreamError, match=r"image\.tofc: the stream's .* do not match their checksum"):
        CliRunner().invoke(app, [str(stream), "--codec", str(codec)], catch_exceptions=False)
    with pytest.raises(BitstreamError, match=r"absent\.tofc: cannot be read"):
        CliRunner().invoke(app, [str(stream.with_name("absent.tofc"))], catch_exceptions=False)
