"""The data of estimates: machines, kinds of stage, published times; each with where it comes from."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.errors import ScenarioError, unknown_name
from harness.runs import digests

Processor = Literal["tensor", "fp32", "cpu"]
"""What limits a stage's operations: an accelerator's matrix units, its other units, or one core of the processor."""

_NAMED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bH200\b(?!.*\b(NVL|MIG)\b)"), "h200"),
    (re.compile(r"\bH100\b(?!.*\b(PCIe|NVL|MIG)\b)"), "h100"),
    (re.compile(r"\bRTX 4090\b(?! (Laptop|D)\b)"), "rtx-4090"),
    (re.compile(r"\bRTX 8000\b(?!.*\bMax-Q\b)"), "rtx-8000"),
    (re.compile(r"\bAGX Orin\b"), "agx-orin"),
)
"""The names of boards and GPUs that have a sheet; others of like names are slower and have none."""

Positive = Annotated[float, Field(gt=0)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Row):
    """Where data come from; the address is empty for a second-hand source."""

    title: str
    address: str


class Machine(_Row):
    """A data sheet: dense operations a second, bytes a second, and the clock of one core of the processor.

    ``same_efficiency_as`` names the machine of which this is a power mode.
    """

    about: str
    tensor_ops: Positive
    fp32_ops: Positive
    bandwidth: Positive
    cpu_hz: Positive
    same_efficiency_as: str = ""
    source: str
    firmness: str

    def peak(self, processor: Processor) -> float:
        """Operations, or elements on a core at one a cycle, a second."""
        return {"tensor": self.tensor_ops, "fp32": self.fp32_ops, "cpu": self.cpu_hz}[processor]


class Kind(_Row):
    """A kind of stage; ``like`` is the kind whose efficiency is used on a machine that has none of this kind."""

    processor: Processor
    like: str = ""
    about: str


class Published(_Row):
    """One published time and the work that took it: a model's tokens, a codec's picture, or elements of a kind."""

    name: str
    machine: str
    kind: str
    model: str = ""
    tokens: int = 0
    weight_bits: Positive = 16.0
    codec: str = ""
    channels: tuple[int, ...] = ()
    side: Literal["", "device", "server"] = ""
    size: str = ""
    elements: int = 0
    ms: Positive | None = None
    per_s: Positive | None = None
    units: Positive = 1.0
    source: str

    @property
    def seconds(self) -> float:
        """What was published, in seconds."""
        if self.ms is not None:
            return self.ms / 1e3
        assert self.per_s is not None
        return self.units / self.per_s

    @model_validator(mode="after")
    def _one_time_of_one_work(self) -> "Published":
        if (self.ms is None) == (self.per_s is None):
            raise ValueError(f"{self.name}: either ms or per_s is expected")
        if sum(map(bool, (self.model, self.codec, self.elements))) != 1:
            raise ValueError(f"{self.name}: one of model, codec and elements is expected")
        return self


class LeftOut(_Row):
    """A publication that is not used, and why."""

    what: str
    why: str


class Sheets(_Row):
    """All data; every name in it is defined."""

    machines: dict[str, Machine]
    kinds: dict[str, Kind]
    sources: dict[str, Source]
    rows: tuple[Published, ...]
    left_out: tuple[LeftOut, ...]
    models: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _names_are_defined(self) -> "Sheets":
        for user, what, name, known in self._named():
            if name and name not in known:
                raise ValueError(f"{user}: {unknown_name(what, name, known)}")
        return self

    def _named(self) -> Iterator[tuple[str, str, str, Mapping[str, object]]]:
        """Who uses a name, what it names, and where it has to be defined; an empty name is none."""
        for row in self.rows:
            yield row.name, "machine", row.machine, self.machines
            yield row.name, "kind", row.kind, self.kinds
            yield row.name, "source", row.source, self.sources
            yield row.name, "model", row.model, self.models
        for name, machine in self.machines.items():
            yield name, "source", machine.source, self.sources
            yield name, "machine", machine.same_efficiency_as, self.machines
        for name, kind in self.kinds.items():
            yield name, "kind", kind.like, self.kinds

    def machine(self, name: str) -> Machine:
        """The machine of a name; raises ScenarioError, listing the known ones, for any other."""
        if name not in self.machines:
            raise ScenarioError(unknown_name("machine with a data sheet", name, self.machines))
        return self.machines[name]

    def cited(self, machines: Iterable[str], times: Iterable[str] = ()) -> Iterator[str]:
        """The sheets of some machines and the sources of some published times, a line each."""
        for name in dict.fromkeys(machines):
            machine = self.machine(name)
            source = self.sources[machine.source]
            yield f"{name}: {machine.about}; {source.title}, {source.address} ({machine.firmness})"
        used = set(times)
        for key in dict.fromkeys(row.source for row in self.rows if row.name in used):
            source = self.sources[key]
            yield f"{source.title}{', ' + source.address if source.address else ''}"


def named(product: str) -> str | None:
    """The machine whose sheet a board or GPU of this name has, such as ``NVIDIA H100 80GB HBM3``; None for others."""
    return next((machine for pattern, machine in _NAMED if pattern.search(product)), None)


@functools.cache
def sheets() -> Sheets:
    """The package's own data."""
    machines, published = (yaml.safe_load(text) for text in _texts())
    sources = {**machines["sources"], **published["sources"]}
    return Sheets.model_validate({**published, "machines": machines["machines"], "sources": sources})


def digest() -> str:
    """A digest of the data, on which every estimate depends."""
    return digests.of_text("\n".join(_texts()))


def _texts() -> list[str]:
    folder = resources.files("harness.estimates") / "data"
    return [(folder / f"{name}.yaml").read_text(encoding="utf-8") for name in ("machines", "published")]
