"""The kernels that compile_all compiles serve a whole request, and forked processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CODE = """
import sys
import torch
from numba.core.dispatcher import Dispatcher
from harness.kernels import compile_all
from harness.tofc.codec import TofcCodec
from harness.tofc.trained import CODECS
from harness.tofc.merging import merge
import baselines.rans

def signatures():
    modules = [sys.modules[name] for name in sorted(sys.modules) if name.startswith(("harness.tofc", "baselines."))]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
    return {str(kernel.py_func.__qualname__): list(kernel.signatures) for kernel in found.values()}

assert not any(signatures().values())
compile_all()
compiled = signatures()
codec = TofcCodec.load(sorted(CODECS.glob("*/*/codec.safetensors"))[0])
y_PCD = merge(torch.randn(5, 144, codec.config.dim), 6).y_PCD
y_PCD[0, 0, :4] = 1e5
codec.decompress(codec.compress(y_PCD))
print(sorted(name for name, found in signatures().items() if found != compiled[name]))
print(*sorted(name for name, found in compiled.items() if found))
"""


CALLED = {
    *("_set_up", "_push", "_pop", "_push_bits", "_pop_bits", "starts", "to_runs", "from_runs", "_run", "_scan"),
    *("_steal", "_encode", "_decode"),
}
"""The kernels that are called from Python; kernels called by them are in the same cache entries."""


@pytest.mark.slow
def test_a_request_compiles_nothing_after_compile_all() -> None:
    """Every kernel of TOFC and of the image codecs is compiled ahead, for the arguments of a request."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    left, compiled = done.stdout.splitlines()
    assert left == "[]"
    assert set(compiled.split()) >= CALLED
