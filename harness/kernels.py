"""How numba compiles this project's functions, where it caches them, and how all are compiled ahead of time.

A kernel is compiled when it is first called with arguments of a kind, and cached in ``kernels/`` of the cache folder
(:mod:`harness.cache`), never beside the sources: a read-only installation works. Where nothing can be written, each
process compiles its own.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import numba
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

from harness.cache import cache_folder

F = TypeVar("F", bound=Callable[..., Any])

_warm_ups: list[Callable[[], None]] = []


@overload
def kernel(function: F, /) -> F: ...
@overload
def kernel(**options: Any) -> Callable[[F], F]: ...
def kernel(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compile a function by numba without Python's lock, and cache the result; ``options`` are numba.njit's others."""
    if function is None:
        return functools.partial(_compiled, options)
    return _compiled(options, function)


def _compiled(options: dict[str, Any], function: Callable[..., Any]) -> Any:
    compiled = numba.njit(nogil=True, **options)(function)
    folder = _folder(Path(function.__code__.co_filename).parent)
    # Not a dispatcher where numba is switched off (NUMBA_DISABLE_JIT).
    if folder is not None and isinstance(compiled, Dispatcher):
        with contextlib.suppress(RuntimeError):
            compiled._cache = _Cache(function, folder)  # type: ignore[attr-defined]
    return compiled


class _Cache(FunctionCache):
    """numba's cache of one function in this project's folder; if the folder fails later, only the cache is lost."""

    def __init__(self, function: Callable[..., Any], folder: Path) -> None:
        # numba reads this setting here and nowhere else; $NUMBA_CACHE_DIR would set it for every package.
        settings: Any = numba.config
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(folder)
        try:
            super().__init__(function)  # type: ignore[no-untyped-call]
        finally:
            settings.CACHE_DIR = before

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """As numba's, where it can."""
        with contextlib.suppress(OSError):
            return super().load_overload(signature, target_context)  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """As numba's, where it can."""
        with contextlib.suppress(OSError):
            super().save_overload(signature, data)  # type: ignore[no-untyped-call]


@functools.cache
def _folder(package: Path) -> Path | None:
    """Where the kernels of a package's modules are cached.

    numba recompiles a kernel when its own file changes, but not when a kernel or constant changes that it uses from
    another file. So the name of the folder is a digest of the whole package and of this module.
    """
    root = cache_folder()
    if root is None:
        return None
    digest = hashlib.sha256(numba.__version__.encode())
    for path in [Path(__file__), *sorted(package.glob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return root / "kernels" / f"{package.name}-{digest.hexdigest()[:16]}"


def warm_up(function: Callable[[], None]) -> Callable[[], None]:
    """Register a function that calls a module's kernels on small inputs of each kind; it runs once a process."""
    once = functools.cache(function)
    _warm_ups.append(once)
    return once


def compile_all() -> None:
    """Run every warm-up registered by the modules imported so far: kernels are compiled or read from the cache.

    To be called before work is forked, so that the processes share what is compiled, and before anything is timed.
    """
    for once in _warm_ups:
        once()
