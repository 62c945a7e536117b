"""The exception tree.

    HarnessError
    ├── ScenarioError      a scenario file, a key in it, or a name that it uses
    ├── DataError          a benchmark's TSV or an image in it
    ├── TraceError         a recorded channel
    ├── SchemeError        a scheme whose halves return what the contract does not have
    │   └── FeaturesError  features that a scheme cannot reduce or code; a ValueError too
    ├── BitstreamError     bytes that are not what a device half would have sent
    ├── CheckpointError    weights that are absent, damaged or of another model
    ├── ResultsError       a results folder
    ├── PeerError          the other side of a network connection
    └── UnavailableError   something this machine does not have

A user can fix every one of them: the command line prints its sentence and exits with status 2. A sentence names the
file, the place in it, the value found, and what would be right.
"""

import contextlib
import difflib
import enum
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar

MOST_SENTENCES = 100
"""The most mistakes of one file that are printed."""


class ExitCode(enum.IntEnum):
    """The exit status of every command."""

    FINE = 0
    NEGATIVE = 1
    """A negative verdict: no point qualifies, a limit is missed."""
    BAD_INPUT = 2
    """An input that is wrong, or two that cannot be compared."""
    NOTHING_MEASURED = 3
    INTERRUPTED = 130
    """128 + SIGINT, as shells count."""


class HarnessError(Exception):
    """The base of every error that a user can fix."""


class ScenarioError(HarnessError):
    """A scenario that cannot be run as written."""


class DataError(HarnessError):
    """A benchmark file, or a row or image of it, that cannot be read."""


class TraceError(HarnessError):
    """A channel trace that is not a trace."""


class SchemeError(HarnessError):
    """A scheme or a model that returns something else than the contract says."""


class FeaturesError(SchemeError, ValueError):
    """Features that a reducer or a codec cannot take, or as many as it cannot make."""


class BitstreamError(HarnessError):
    """A payload that no device half produced."""


class CheckpointError(HarnessError):
    """Weights that are absent, damaged, or of another architecture."""


class ResultsError(HarnessError):
    """A results folder that is absent, damaged, or of another schema or scenario."""


class PeerError(HarnessError):
    """A network peer that does not follow the protocol, or does not answer."""


class UnavailableError(HarnessError):
    """A data set, a checkpoint, a tool or a privilege that this machine does not have."""


Tell = Callable[[str], None]
_tells: ContextVar[tuple[Tell, ...]] = ContextVar("tells", default=())


@contextlib.contextmanager
def telling(tell: Tell, *, alone: bool = False) -> Iterator[None]:
    """Calls ``tell`` with each place that is entered inside by :func:`placed`, and with nothing when it is left.

    Code of others may end the process there, or never return. What is called outside is called too, unless ``alone``.
    """
    token = _tells.set((tell,) if alone else (*_tells.get(), tell))
    try:
        yield
    finally:
        _tells.reset(token)


def tell(place: str) -> None:
    """Reports the point and sample that this process is at to every function of :func:`telling`."""
    for one in _tells.get():
        one(place)


@contextlib.contextmanager
def placed(point: str, sample: str = "") -> Iterator[None]:
    """Says at which point, and of which sample, an error is raised inside.

    The sentence of a HarnessError begins with it; any other exception has it as a note below its traceback, and a
    KeyboardInterrupt as its argument. Code that ends the process raises SchemeError.
    """
    place = f"{point}, sample {sample}" if sample else point
    tell(place)
    try:
        yield
    except HarnessError as error:
        # An error of a sample's own picture names the sample already.
        of_sample = f", sample {sample}" if sample and not str(error).startswith(f"sample {sample}: ") else ""
        error.args = (f"{point}{of_sample}: {error}",)
        raise
    except KeyboardInterrupt as error:
        error.args = error.args or (place,)
        raise
    except SystemExit as error:
        raise SchemeError(f"{place}: its code ends the process (SystemExit: {error}); it may raise an error") from error
    except Exception as error:
        error.add_note(f"raised for {place}")
        raise
    finally:
        tell("")


def in_lines(sentences: Sequence[str], where: str, more: int = 0) -> str:
    """Mistakes of one file as lines: at most :data:`MOST_SENTENCES`, and the number of the others and of ``more``."""
    rest = more + max(0, len(sentences) - MOST_SENTENCES)
    return "\n".join([*sentences[:MOST_SENTENCES], *([f"{where}: and {rest} more mistakes"] if rest else [])])


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in a table: the name that may be meant, and the known ones."""
    names = sorted(known)
    return f"unknown {what} {shown(name)}; {meant(name, names)}known: {', '.join(names)}"


def meant(name: str, known: Iterable[str]) -> str:
    """``did you mean 'jpeg'? `` where a known name is close to ``name``; nothing where none is."""
    # Names are short, and the comparison is quadratic in their length.
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def shown(value: object) -> str:
    """A value as a sentence quotes it: on one line, 60 characters at most."""
    try:
        text = repr(value)
    except ValueError:  # An integer of more digits than Python writes.
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    """``text`` with escapes for what a terminal would interpret or cannot show: control characters, half surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
