"""Where a run's numbers come from: the manifest that lies beside its rows.

A run may be stopped and resumed, under another commit or on another machine. So what decides a number is recorded for
each session, and what must not change between sessions (the scenario, what its names stand for, the seed) once for the
run.
"""

import base64
import datetime as dt
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from harness import __version__
from harness.errors import ResultsError
from harness.files import why
from harness.records import SCHEMA_VERSION, Side
from harness.runs import labels
from harness.runs.digests import changed, of_code, of_data

MANIFEST = "manifest.json"

PACKAGES = (
    "accelerate", "compressai", "constriction", "numba", "numpy", "pandas", "peft", "pillow", "pyarrow", "safetensors",
    "scipy", "simpy", "tokenizers", "torch", "torchvision", "transformers",
)  # fmt: skip
"""The distributions whose version may change a number, in bytes, answers or seconds."""

UNAVAILABLE = "unavailable: "
"""Prefix of a session's entry for telemetry that its machine does not have; the reason follows."""

_GIT_PATIENCE_S = 5.0
_SEAL = "seal"
_DISTRIBUTION = "tofc-harness"

Status = Literal["running", "complete"]
Validity = Literal["VALID", "INVALID"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _refuse_nameless(machine: Mapping[str, Any]) -> None:
    if not all(isinstance(machine.get(key), str) for key in ("id", "name")):
        raise ValueError("a machine has an 'id' and a 'name', both text")


class Server(_Strict):
    """Where a session's server halves ran, if on another machine than its device halves; fields as in Session."""

    harness_version: str
    commit: str | None
    dirty: bool | None
    code: str
    packages: dict[str, str]
    machine: dict[str, Any]

    @model_validator(mode="after")
    def _machine_is_named(self) -> Self:
        _refuse_nameless(self.machine)
        return self


class Session(_Strict):
    """One stretch of work on a run: from the start of a process to its end, or to its death.

    ``commit`` and ``dirty`` are null where the harness does not run from a checkout of its own; ``code`` is the digest
    of its Python files. ``machine`` is a plain mapping with at least an ``id`` and a ``name``. ``telemetry`` says of
    each kind what watched the clocks while stages were timed, or that it is unavailable; it is empty where nothing was
    timed. ``throttled`` has each sentence of the telemetry on a lowered clock, and in how many units of timed requests
    it was true. ``watched`` says the same as ``telemetry`` of what saw whether the process had the machine to itself;
    ``disturbed`` why requests were run again, and how often; ``pressure`` the share of the time in which some task of
    the machine waited for a processor. ``released``: without a commit, whether the code is an installed release's.
    ``server`` is null where both halves ran in this process. ``energy`` says of each side what its energy was read
    from, or why nothing was. ``conditions`` has the power mode, clocks (MHz) and temperatures (C) before and after a
    pass, and for answers that several processes computed, how many there were, what they were and how many died.
    """

    started_utc: str
    command: tuple[str, ...] = Field(strict=False)
    harness_version: str
    commit: str | None
    dirty: bool | None
    code: str
    packages: dict[str, str]
    machine: dict[str, Any]
    telemetry: dict[str, str] = Field(default_factory=dict)
    throttled: dict[str, int] = Field(default_factory=dict)
    server: Server | None = None
    watched: dict[str, str] = Field(default_factory=dict)
    disturbed: dict[str, int] = Field(default_factory=dict)
    pressure: float | None = None
    released: bool = False
    energy: dict[str, str] = Field(default_factory=dict)
    conditions: dict[str, dict[str, float | str | bool]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _machine_is_named(self) -> Self:
        _refuse_nameless(self.machine)
        return self


class Manifest(_Strict):
    """What a run is, where its numbers come from, and whether it is VALID.

    ``scenario`` is the scenario as given, with SI numbers. ``benchmarks`` and ``backbone`` are what ran; ``stand_ins``
    maps what was wanted to what ran instead. ``points`` are the parameters of every operating point, by pipeline and
    label. ``digests`` has that of everything that rows depend on, by a name for people: files, parts of models.
    ``tables`` has the digest of each of the run's files. ``validity`` is null while the run is unfinished; ``reasons``
    says why a run is INVALID. ``half`` is the only side whose halves were measured, null for a run of both.
    ``untrained`` has the points whose weights were trained for other n_c, by pipeline and label, each with these n_c,
    or null where what they were trained for is not known; it is absent from the manifest of an older run.
    """

    schema_version: int
    name: str
    scenario: dict[str, Any]
    scenario_hash: str
    benchmarks: tuple[str, ...] = Field(strict=False)
    backbone: str
    stand_ins: dict[str, str]
    points: dict[str, dict[str, dict[str, Any]]]
    digests: dict[str, str]
    seed: int
    status: Status
    validity: Validity | None
    reasons: tuple[str, ...] = Field(strict=False)
    finished_utc: str | None
    tables: dict[str, str] = Field(default_factory=dict)
    half: Side | None = None
    untrained: dict[str, dict[str, list[int] | None]] | None = None
    sessions: tuple[Session, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _finished_means_judged(self) -> Self:
        complete = self.status == "complete"
        if complete != (self.validity is not None) or complete != (self.finished_utc is not None):
            raise ValueError("'validity' and 'finished_utc' are null in a running run, and only there")
        if (self.validity == "INVALID") != bool(self.reasons):
            raise ValueError("an INVALID run has 'reasons', and no other run has any")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_known(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The seal of an older manifest is over what that has."""
        given: dict[str, Any] = handler(self)
        if self.untrained is None:
            given.pop("untrained", None)
        return given

    @property
    def label(self) -> str:
        """Empty, or what every table and figure says of a run on stand-ins."""
        if not self.stand_ins:
            return ""
        wanted_of: dict[str, list[str]] = {}
        for wanted, ran in self.stand_ins.items():
            wanted_of.setdefault(ran, []).append(wanted)
        swaps = (f"{ran} for {', '.join(wanted)}" for ran, wanted in wanted_of.items())
        return f"stand-ins: {'; '.join(swaps)}"

    @property
    def untuned(self) -> str:
        """Empty, or what tables and figures say of points that run otherwise than their weights were trained."""
        if self.scenario.get("estimate") is not None:
            return ""  # Nothing is answered.
        return "; ".join(labels.untuned(self.points, self.untrained or {}))

    @property
    def machines(self) -> tuple[str, ...]:
        """The names of the machines that took part, in order of appearance."""
        sides = (side for session in self.sessions for side in (session, session.server) if side is not None)
        return tuple(dict.fromkeys(side.machine["name"] for side in sides))

    @property
    def throttling(self) -> str:
        """Whether clocks were lowered while stages were timed, in a phrase that says what watched them."""
        if any(session.throttled for session in self.sessions):
            return "seen"
        if not (told := [session.telemetry for session in self.sessions if session.telemetry]):
            return "not recorded"
        # A clock by itself is no verdict: a governor lowers it too.
        watched = [
            [
                what
                for kind, what in telemetry.items()
                if not kind.endswith("clocks") and not what.startswith(UNAVAILABLE)
            ]
            for telemetry in told
        ]
        if not any(watched):
            return "unavailable on this machine"
        in_part = "" if all(watched) else "; unavailable in some sessions"
        return f"none seen by {' and '.join(dict.fromkeys(itertools.chain(*watched)))}{in_part}"

    @property
    def commits(self) -> str:
        """The code's identity for people: each session's commit, marked where the checkout differed from it."""
        seen = (_commit(session) for session in self.sessions)
        return ", ".join(dict.fromkeys(seen))

    def scenario_value(self, *keys: str) -> Any:
        """The scenario's value at a key path; raises ResultsError where the scenario has no such key."""
        value: Any = self.scenario
        for depth, key in enumerate(keys):
            if not isinstance(value, Mapping) or key not in value:
                known = ", ".join(value) if isinstance(value, Mapping) else "none"
                place = ".".join(("scenario", *keys[:depth]))
                raise ResultsError(f"run {self.name}: {MANIFEST} has no key {key!r} in {place}; it has: {known}")
            value = value[key]
        return value


def _commit(session: Session) -> str:
    if session.commit is None:
        return f"version {session.harness_version}"
    return session.commit[:9] + ("+changes" if session.dirty else "")


def begin(
    *,
    name: str,
    scenario: Mapping[str, Any],
    scenario_hash: str,
    benchmarks: Sequence[str],
    backbone: str,
    stand_ins: Mapping[str, str],
    points: Mapping[str, Mapping[str, Mapping[str, Any]]],
    digests: Mapping[str, str],
    seed: int,
    command: Sequence[str],
    machine: Mapping[str, Any],
    server: Server | None = None,
    half: Side | None = None,
    untrained: Mapping[str, Mapping[str, Sequence[int] | None]] | None = None,
) -> Manifest:
    """The manifest of a run that starts now, in this process, from this checkout of the harness."""
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        scenario=dict(scenario),
        scenario_hash=scenario_hash,
        benchmarks=tuple(benchmarks),
        backbone=backbone,
        stand_ins=dict(stand_ins),
        points={pipeline: {label: dict(point) for label, point in of.items()} for pipeline, of in points.items()},
        digests=dict(digests),
        seed=seed,
        status="running",
        validity=None,
        reasons=(),
        finished_utc=None,
        half=half,
        untrained=None
        if untrained is None
        else {
            name: {label: None if trained is None else list(trained) for label, trained in of.items()}
            for name, of in untrained.items()
        },
        sessions=(session(command=command, machine=machine, server=server),),
    )


def session(*, command: Sequence[str], machine: Mapping[str, Any], server: Server | None = None) -> Session:
    """A session that starts now, in this process, from this checkout of the harness."""
    commit, dirty = checkout(Path(__file__).parents[2])
    return Session(
        started_utc=utc_now(),
        command=tuple(command),
        harness_version=__version__,
        commit=commit,
        dirty=dirty,
        code=of_code(),
        packages=package_versions(),
        machine=dict(machine),
        released=commit is None and released(Path(__file__).parents[2]),
        server=server,
    )


def changes(old: Manifest, new: Manifest) -> list[str]:
    """What has changed since a run was last worked on, a phrase each: files, weights, code, packages, scenario.

    The machine is not among them: it decides only times, and rows name it.
    """
    found = [
        *(["the scenario"] if old.scenario_hash != new.scenario_hash else []),
        *changed(old.digests, new.digests),
        *software_changes(old, new),
    ]
    if (old.benchmarks, old.backbone) != (new.benchmarks, new.backbone):
        found.append(
            f"what runs ({', '.join((*old.benchmarks, old.backbone))} before, "
            f"{', '.join((*new.benchmarks, new.backbone))} now)"
        )
    return found


def software_changes(old: Manifest, new: Manifest) -> list[str]:
    """What has changed in the code and the packages, a phrase each; rows of two versions are not mixed."""
    before, now = old.sessions[-1], new.sessions[-1]
    packages = [
        f"{name} ({before.packages.get(name, 'absent')} before, {now.packages.get(name, 'absent')} now)"
        for name in changed(before.packages, now.packages)
    ]
    if (before.server is None) != (now.server is None):
        packages.append(f"where the server halves run ({_where(before)} before, {_where(now)} now)")
    elif before.server is not None and now.server is not None:
        packages += [
            f"the server's {name} ({before.server.packages.get(name, 'absent')} before, "
            f"{now.server.packages.get(name, 'absent')} now)"
            for name in changed(before.server.packages, now.server.packages)
        ]
    return [*(["the harness's own code"] if before.code != now.code else []), *packages]


def _where(session: Session) -> str:
    return "in the same process" if session.server is None else f"on {session.server.machine['name']}"


def utc_now() -> str:
    """The present instant in UTC, ISO 8601 to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Python and those of :data:`PACKAGES` that were installed when this process first asked, without importing any."""
    return dict(_package_versions())


@functools.cache
def _package_versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


CODE = ("harness", "baselines")
"""The files of a checkout that compute a run's rows; the scenario and the packages' versions are in the manifest."""

REMADE_FROM = (*CODE, "scenarios", "constraints.txt", "pyproject.toml")
"""The files of a checkout that decide the rows of a run of a committed scenario elsewhere."""


def uncommitted(root: Path, paths: Sequence[str] = CODE) -> list[str] | None:
    """The files under ``paths`` that differ from the checkout's commit, new ones too; None where git does not say."""
    told = _git(root, "status", "--porcelain", "--", *paths)
    return None if told is None else [line[3:] for line in told.splitlines()]


def checkout(root: Path) -> tuple[str | None, bool | None]:
    """The commit of the git checkout whose top folder is ``root``, and whether its code differs from that commit.

    Null twice where ``root`` is no checkout's top folder: an installed package may lie inside a repository that has
    nothing to do with it. Git is given no lock, no prompt and a few seconds.
    """
    answer = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    if answer is None or len(lines := answer.splitlines()) != 2 or Path(lines[0]).resolve() != root.resolve():
        return None, None
    differing = uncommitted(root)
    return lines[1], None if differing is None else bool(differing)


def released(root: Path) -> bool:
    """Whether the Python files under ``root`` are those of an installed release, by the digests that it was built with.

    An editable installation is not one: its files may change at any time.
    """
    try:
        listed = importlib.metadata.distribution(_DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        return False
    built = {Path(str(file.locate())).resolve(): file.hash for file in listed if file.suffix == ".py"}
    own = [path.resolve() for top in ("harness", "baselines") for path in (root / top).rglob("*.py")]
    return bool(own) and all((known := built.get(path)) is not None and _fits(path, known) for path in own)


def _fits(path: Path, known: importlib.metadata.FileHash) -> bool:
    found = hashlib.new(known.mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == known.value


def _git(root: Path, *arguments: str) -> str | None:
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_PATIENCE_S,
            check=True,
            env={**{k: v for k, v in os.environ.items() if not k.startswith("GIT_")}, **quiet},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def to_json(manifest: Manifest) -> str:
    """The manifest as it is written: indented JSON, keys in the order of the class, and a seal over all of it."""
    data = manifest.model_dump(mode="json")
    return json.dumps({**data, _SEAL: of_data(data)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> Manifest:
    """The manifest at ``path``.

    Raises ResultsError, naming the key and the value, for anything that is not one, or was edited after it was written.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path}: no such file; a run's folder holds one, written by 'harness run'") from None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {why(error)}") from None
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: is not text: {error}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ResultsError(f"{path}: is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ResultsError(f"{path}: holds a {type(data).__name__}; a manifest is a JSON object")
    version = data.get("schema_version")
    if type(version) is int and version != SCHEMA_VERSION:
        raise ResultsError(
            f"{path}: schema_version is {version} and this harness reads {SCHEMA_VERSION}; "
            "read it with the harness version it was written by, or run the scenario again with --fresh"
        )
    seal = data.pop(_SEAL, None)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise ResultsError(f"{path}: {_first_mistake(error)}") from None
    if seal != (found := of_data(manifest.model_dump(mode="json"))):
        raise ResultsError(
            f"{path}: was edited after the run wrote it (its seal is {seal}, its content's {found}); a manifest is "
            "evidence: run the scenario again instead, with --fresh"
        )
    return manifest


def _first_mistake(error: ValidationError) -> str:
    mistake = error.errors(include_url=False)[0]
    key = ".".join(map(str, mistake["loc"])) or "the manifest"
    if mistake["type"] == "missing":
        return f"the key {key!r} is missing"
    if mistake["type"] == "extra_forbidden":
        return f"unknown key {key!r}"
    if not mistake["loc"]:
        return mistake["msg"].removeprefix("Value error, ")
    shown = repr(mistake["input"])
    found = shown if len(shown) <= 60 else f"{shown[:57]}..."
    wanted = mistake["msg"].removeprefix("Value error, ")
    return f"{key} is {found}: {wanted[:1].lower()}{wanted[1:]}"
