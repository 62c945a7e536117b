"""What a half needs besides time: its weights, its peak memory, its operations.

None of this is measured while stages are timed, because counting slows them down.
"""

import contextlib
import ctypes
import functools
import re
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from harness.models.contract import Clock, Shared, Untimed
from harness.records import Quantity

_CLEAR_PEAK = "5"
"""The value that resets a process's peak of resident memory, written to ``clear_refs`` (proc(5))."""


class OperationsClock:
    """A clock that counts each stage's floating-point operations instead of its time, by torch's formulas.

    A multiplication and an addition are two. What torch does not compute is not counted: entropy coding, clustering on
    a CPU, picture codecs. ``device`` is a torch device's name.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.operations: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts its body's operations, added to those of the stage so far."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from harness.profiling.operations import Products

        def add(operations: int, *_: Any) -> None:
            self.operations[name] += operations

        self.operations.setdefault(name, 0)
        # torch has no formula for the CPU's fused attention; as products it has.
        plain = sdpa_kernel(SDPBackend.MATH) if self._device == "cpu" else contextlib.nullcontext()
        with plain, Products(add):
            yield


Need: TypeAlias = tuple[str, Quantity, int]
"""A stage (empty for a half as a whole), a quantity and its value."""


def half_needs(half: object, work: Callable[[Clock], object], device: str) -> Iterator[Need]:
    """What a half needs for ``work``, which is run three times: to load what is loaded once, and to count."""
    work(Untimed())
    weights = weights_bytes(half)
    yield "", "weights_bytes", weights
    if (taken := memory_taken_bytes(functools.partial(work, Untimed()), device)) is not None:
        yield "", "peak_memory_bytes", weights + taken
    counter = OperationsClock(device)
    work(counter)
    for stage, operations in counter.operations.items():
        yield stage, "operations", operations


def memory_taken_bytes(work: Callable[[], object], device: str) -> int | None:
    """The most memory that ``work`` takes above what is held before it; null if the system does not report it.

    On an accelerator what torch's allocator hands out, elsewhere the process's resident memory, in pages, to about
    0.3 MB: freed memory is given back to the system first, so that it is seen when it is taken again. Blocks of up to
    32 MiB that ``work`` frees may stay with the C library, and are then in the peak.
    """
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    own = Path("/proc/self")
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (own / "clear_refs").write_text(_CLEAR_PEAK)
        before = _status_bytes(own, "VmRSS")
        work()
        return max(0, _status_bytes(own, "VmHWM") - before)
    except (OSError, AttributeError, LookupError):
        return None


def weights_bytes(half: object) -> int:
    """The bytes of all tensors and arrays that a half holds, wherever in it; what is shared in it counts once.

    Features that are kept of the last pictures (:class:`harness.models.contract.Shared`) are none of its weights.
    """
    import torch

    found: dict[int, int] = {}
    seen: dict[int, object] = {}
    waiting = [half]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or thing is None or isinstance(thing, _HOLD_NONE):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = 0 if thing.is_meta else storage.nbytes()
        elif isinstance(thing, np.ndarray):
            # A view holds all of the array that it is of, as a tensor holds its storage.
            whole = thing
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            found.setdefault(whole.__array_interface__["data"][0], whole.nbytes)
        else:
            waiting += _held(thing)
    return sum(found.values())


_HOLD_NONE = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float, Path, Shared)


def _held(thing: Any) -> Iterator[object]:
    """The objects that an object owns: a function's globals and an object's class are not its own."""
    if isinstance(thing, Mapping):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        yield from thing
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, types.FunctionType):
        yield from (thing.__defaults__, thing.__kwdefaults__)
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):
                yield cell.cell_contents
    else:
        yield from getattr(thing, "__dict__", {}).values()
        for name in _slots(type(thing)):  # type: ignore[arg-type]
            yield getattr(thing, name, None)


@functools.cache
def _slots(kind: type) -> list[str]:
    """The slots of a class and of those that it is derived from."""
    declared = (vars(base).get("__slots__", ()) for base in kind.__mro__)
    return [name for names in declared for name in ((names,) if isinstance(names, str) else names)]


def _status_bytes(process: Path, field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    if match is None:
        raise LookupError(field)
    return int(match[1]) * 1024
