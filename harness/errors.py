"""The exception tree.

    HarnessError
    ├── ScenarioError      a scenario file, a key in it, or a name that it uses
    ├── DataError          a benchmark's TSV or an image in it
    ├── TraceError         a recorded channel
    ├── BitstreamError     bytes that are not what a device half would have sent
    ├── CheckpointError    weights that are absent, damaged or of another model
    ├── ResultsError       a results folder
    ├── PeerError          the other side of a network connection
    └── UnavailableError   something this machine does not have

Every one of them is the user's to mend: the command line prints its sentence and exits with status 2.
A sentence names the file, the place in it, the value found, and what would be right.
"""

from collections.abc import Iterable


class HarnessError(Exception):
    """The base of every error that a user can mend."""


class ScenarioError(HarnessError):
    """A scenario that cannot be run as written."""


class DataError(HarnessError):
    """A benchmark file, or a row or image of it, that cannot be read."""


class TraceError(HarnessError):
    """A channel trace that is not a trace."""


class BitstreamError(HarnessError):
    """A payload that no device half produced."""


class CheckpointError(HarnessError):
    """Weights that are absent, damaged, or of another architecture."""


class ResultsError(HarnessError):
    """A results folder that is absent, damaged, or of another schema or scenario."""


class PeerError(HarnessError):
    """A network peer that speaks otherwise than it should, or not at all."""


class UnavailableError(HarnessError):
    """A data set, a checkpoint, a tool or a privilege that this machine does not have."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in a table: it lists the names that are."""
    return f"unknown {what} {name!r}; known: {', '.join(sorted(known))}"
