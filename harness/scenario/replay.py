"""The ``replay:`` section of a scenario: the links, the users and servers, and how requests arrive.

Every default is the paper's setting: one user with a link of its own, one request at a time, T_link = 8 bytes / rate
and nothing else.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, WithJsonSchema, model_validator

from harness import units
from harness.scenario.fields import DurationS, Frozen, Line, RateBps, SizeBytes, repeated

PerSecond = Annotated[
    float,
    Field(gt=0),
    BeforeValidator(units.parse_per_second),
    WithJsonSchema({"type": "string", "examples": ["2 /s"]}),
]
SomeS = Annotated[DurationS, Field(gt=0)]


class FromFile(Frozen):
    """A part that names a file; a relative path counts from the scenario's own folder."""

    path: Line = Field(min_length=1)
    _folder: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any) -> None:
        """Keep the scenario's folder separate from the path as written: only the latter enters the scenario's hash."""
        self._folder = Path((context or {}).get("folder", "."))

    @property
    def file(self) -> Path:
        """Where the file is."""
        return self._folder / self.path


class Wire(Frozen):
    """What a payload costs on the wire besides its own bits; by default nothing, as in the paper.

    ``header`` bytes go with every ``segment`` payload bytes. ``propagation`` is one way. ``handshake`` opens a TCP
    connection for every request (one round trip before the first byte); ``slow_start`` makes every request begin with a
    window of ``initial_window`` segments that doubles with each round trip. ``burst`` is the depth of a token bucket
    that is refilled at the link's rate.
    """

    header_bytes: SizeBytes = Field(default=0, alias="header")
    segment_bytes: int = Field(default=1448, alias="segment", ge=1, json_schema_extra={"examples": ["1448 B"]})
    propagation_s: DurationS = Field(default=0.0, alias="propagation")
    handshake: bool = False
    slow_start: bool = False
    initial_window: int = Field(default=10, ge=1, le=1_000_000)
    burst_bytes: SizeBytes = Field(default=0, alias="burst")

    @model_validator(mode="before")
    @classmethod
    def _segment_is_a_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and "segment" in data:
            return {**data, "segment": units.parse_bytes(data["segment"])}
        return data

    @model_validator(mode="after")
    def _slow_start_without_bucket(self) -> Self:
        if self.slow_start and self.burst_bytes:
            raise ValueError("slow_start and burst are not modelled together; drop one of them")
        return self


class ConstantUplink(Frozen):
    """A link of one rate: ``{kind: constant, rate: 25 KB/s}``."""

    kind: Literal["constant"]
    rate_bps: RateBps = Field(alias="rate")
    name: Line = ""
    wire: Wire = Wire()

    @property
    def label(self) -> str:
        """The link's name in rows and figures."""
        return self.name or units.format_rate(self.rate_bps)


class TraceUplink(FromFile):
    """A recorded link, as ``harness trace import`` writes it.

    ``at_end`` says what happens after the last instant: the link begins again, or carries nothing more. ``gaps``, where
    nothing was recorded, are outages or hold the rate before them. With ``start: random`` every user begins at a random
    instant (the default of a looped trace), with ``beginning`` at the first.
    """

    kind: Literal["trace"]
    at_end: Literal["loop", "stop"] = "loop"
    gaps: Literal["outage", "hold"] = "outage"
    start: Literal["random", "beginning"] | None = None
    name: Line = ""
    wire: Wire = Wire()

    @model_validator(mode="after")
    def _a_stop_needs_a_beginning(self) -> Self:
        if self.at_end == "stop" and self.start == "random":
            raise ValueError("at_end: stop needs start: beginning; a random start would drop a part of the trace")
        return self

    @property
    def random_start(self) -> bool:
        """Whether every user begins the trace somewhere else."""
        return self.start == "random" or (self.start is None and self.at_end == "loop")

    @property
    def label(self) -> str:
        """The link's name in rows and figures."""
        return self.name or Path(self.path).stem


class MarkovUplink(FromFile):
    """A seeded Markov chain of rates with the parameters that ``harness trace fit`` writes."""

    kind: Literal["markov"]
    name: Line = ""
    wire: Wire = Wire()

    @property
    def label(self) -> str:
        """The link's name in rows and figures."""
        return self.name or Path(self.path).stem


class GilbertElliottUplink(Frozen):
    """The chain of two states: ``good`` and ``bad`` rates, each held for an exponential time of the mean given."""

    kind: Literal["gilbert_elliott"]
    good_bps: RateBps = Field(alias="good")
    bad_bps: Annotated[float, Field(ge=0), *RateBps.__metadata__[1:]] = Field(alias="bad")
    good_for_s: SomeS = Field(alias="good_for")
    bad_for_s: SomeS = Field(alias="bad_for")
    name: Line = ""
    wire: Wire = Wire()

    @property
    def label(self) -> str:
        """The link's name in rows and figures."""
        good, bad = units.format_rate(self.good_bps), units.format_rate(self.bad_bps)
        return self.name or f"{good} / {bad}"


Uplink = Annotated[ConstantUplink | TraceUplink | MarkovUplink | GilbertElliottUplink, Field(discriminator="kind")]


class ClosedLoop(Frozen):
    """A user asks again ``think`` after the answer, or after giving up."""

    kind: Literal["closed_loop"]
    think_s: DurationS = Field(default=0.0, alias="think")


class Poisson(Frozen):
    """Every user asks at exponential intervals, ``rate`` times a second on average, whether answered or not."""

    kind: Literal["poisson"]
    rate_hz: PerSecond = Field(alias="rate")


class Periodic(Frozen):
    """Every user asks once ``every`` interval; ``phase: random`` spreads the users over it, ``aligned`` does not."""

    kind: Literal["periodic"]
    every_s: SomeS = Field(alias="every")
    phase: Literal["random", "aligned"] = "random"


class RecordedArrivals(FromFile):
    """Requests at recorded instants: a CSV with a column ``at_s`` and, if the users are known, ``user`` (from 0)."""

    kind: Literal["recorded"]


Arrivals = Annotated[ClosedLoop | Poisson | Periodic | RecordedArrivals, Field(discriminator="kind")]


SERVER_STAGES = ("decode", "preprocess", "vision_encode", "merge", "project", "prefill", "generate")
"""The stages that the harness's own schemes and models time on a server, in the order in which they may come."""


class Batching(Frozen):
    """A server takes up to ``max_batch`` waiting requests at once, and waits up to ``window`` for the batch to fill.

    The stages named in ``together`` run once for the batch: as long as the longest member's own time plus ``marginal``
    times the sum of the others' (0: the others are free; 1: nothing is gained). All other server stages run one after
    the other. ``marginal`` has no default because it is a property of the server that has to be known. Names are those
    of :data:`SERVER_STAGES`, or of stages that a scheme, a model or a profile of your own has on the server.
    """

    max_batch: int = Field(ge=1, le=4096)
    window_s: DurationS = Field(default=0.0, alias="window")
    marginal: float = Field(ge=0, le=1, strict=False)
    together: tuple[str, ...] = Field(default=("vision_encode", "project", "prefill", "generate"), strict=False)

    @model_validator(mode="after")
    def _stages_are_named_once(self) -> Self:
        if (twice := repeated(self.together)) is not None:
            raise ValueError(f"together names the stage {twice} twice")
        return self

    @property
    def waits(self) -> bool:
        """Whether a request without others waits for a batch to fill."""
        return self.max_batch > 1 and self.window_s > 0


class AnswerLink(Frozen):
    """The answer's way back: ``size`` bytes at ``rate``, and ``propagation``; by default free, as in the paper."""

    size_bytes: SizeBytes = Field(default=0, alias="size")
    rate_bps: RateBps | None = Field(default=None, alias="rate")
    propagation_s: DurationS = Field(default=0.0, alias="propagation")

    @model_validator(mode="after")
    def _a_size_needs_a_rate(self) -> Self:
        if self.size_bytes and self.rate_bps is None:
            raise ValueError("an answer with a size needs the rate of its way back, such as rate: 1 MB/s")
        return self

    @property
    def seconds(self) -> float:
        """The time of every answer on its way back."""
        return self.propagation_s + (8 * self.size_bytes / self.rate_bps if self.rate_bps else 0.0)


def _one_stands_for_a_list(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


UserCounts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=100_000)], ...],
    Field(min_length=1, strict=False),
    BeforeValidator(_one_stands_for_a_list),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}),
]


class Replay(Frozen):
    """The system in which the profiled stages are replayed.

    ``users`` is one number or several, each a system of its own. ``requests`` is how many each user makes; without it,
    every timed repeat is replayed once, in a random order but for one user of a closed loop. ``seeds`` is how many
    independent random streams each system is replayed with.
    A request that is not answered within ``timeout`` is abandoned; one that is answered later than ``deadline`` has
    missed it. ``question_text`` sends the question's text after the payload: its bytes count in T_link of every scheme
    that sends anything. The paper does not count them.
    """

    uplinks: tuple[Uplink, ...] = Field(min_length=1, strict=False)
    users: UserCounts = (1,)
    sharing: Literal["own", "fifo", "processor"] = "own"
    servers: int = Field(default=1, ge=1, le=10_000)
    batching: Batching | None = None
    arrivals: Arrivals = ClosedLoop(kind="closed_loop")
    requests: int | None = Field(default=None, ge=1, le=100_000_000)
    seeds: int = Field(default=1, ge=1, le=10_000)
    deadline_s: SomeS | None = Field(default=None, alias="deadline")
    timeout_s: SomeS | None = Field(default=None, alias="timeout")
    answer: AnswerLink = AnswerLink()
    question_text: bool = False

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        labels = [uplink.label for uplink in self.uplinks]
        if (twice := repeated(labels)) is not None:
            raise ValueError(f"two uplinks are named {twice!r}; give one of them a 'name:' of its own")
        if len(set(self.users)) < len(self.users):
            raise ValueError(f"users {list(self.users)} names a number twice")
        if self.sharing == "processor" and any(u.wire.slow_start or u.wire.burst_bytes for u in self.uplinks):
            raise ValueError("sharing: processor divides a link evenly; it cannot be combined with slow_start or burst")
        if isinstance(self.arrivals, RecordedArrivals) and self.requests is not None:
            raise ValueError("recorded arrivals determine the number of requests; drop 'requests:'")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of recorded links and arrivals that the section names."""
        named = [*self.uplinks, self.arrivals]
        return tuple(dict.fromkeys(Path(part.file) for part in named if isinstance(part, FromFile)))

    @property
    def label(self) -> str:
        """The system's name in rows: arrivals, link sharing, servers, and what else is not as in the paper."""
        parts = [self.arrivals.kind, self.sharing, f"{self.servers} server{'s' * (self.servers > 1)}"]
        if self.batching:
            parts.append(f"batches of {self.batching.max_batch}")
        return ", ".join(parts)
