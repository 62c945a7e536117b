"""A study that is edited between a stop and the repeat of its command has only the rows of the edited study."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from harness import catalog, study
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.team import Team
from tests.forked import forked
from tests.own_model import OWN_MODEL
from tests.silent import Silent

pytestmark = pytest.mark.slow

CODEC = """
from harness.schemes.fake import Fake, FakePoint


class Coarse(Fake):
    @classmethod
    def device_half(cls, models, point):
        import edited_steps

        return Fake.device_half(models, FakePoint(levels=point.levels // edited_steps.COARSER))
"""
SCENARIO = """
name: edited
title: Edited
benchmark: shop/
backbone: edited_model:backbone
samples: 5
pipelines:
  - {scheme: fake, points: [{levels: 8}]}
  - {scheme: "edited_codec:Coarse", name: coarse, points: [{levels: [16, 32]}]}
measure: {timed_samples: 2, warmup: 1, repeats: 1, threads: 1}
selection: {reference: fake, target: 0.5, margin: 0.4}
replay: {uplinks: [{kind: constant, rate: 1 MB/s}]}
"""
CODEC_LINE = '  - {scheme: "edited_codec:Coarse", name: coarse, points: [{levels: [16, 32]}]}\n'
UNITS = 3 * 5
"""Answers of three points on five pictures."""


class Stopped(Silent):
    """Stops the command, as Ctrl-C does, when so many steps are done."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def advance(self) -> None:
        """Counts a step."""
        super().advance()
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A scenario with pictures, a model and a codec of one's own, whose step is in a module beside it."""
    (tmp_path / "shop").mkdir()
    rows = ["image,question,answer"]
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(tmp_path / "shop" / f"{number}.png")
        rows.append(f"{number}.png,Is it dark?,{'no' if number > 2 else 'yes'}")
    for name, text in {
        "shop/shop.csv": "\n".join(rows),
        "edited_model.py": OWN_MODEL,
        "edited_codec.py": CODEC,
        "edited_steps.py": "COARSER = 2\n",
        "edited.yaml": SCENARIO,
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(catalog.SCHEMES, "fake", "harness.schemes.fake:Fake")
    yield tmp_path
    _forget()


def _forget() -> None:
    """As in a new process."""
    for module in ("edited_model", "edited_codec", "edited_steps"):
        sys.modules.pop(module, None)


def _run(folder: Path, name: str, reporter: Silent) -> None:
    _forget()
    study.run(load(folder / "edited.yaml"), folder / name, reporter=reporter, team=Team(workers=1))


def _rows(record: Record) -> dict[str, pd.DataFrame]:
    """A run's rows without measured times and memory, the start that timed them, and the folder's name."""
    stages = record.stages.to_pandas().drop(columns=["seconds", "cpu_s", "waited_s", "load", "start", "run"])
    requests, resources = record.requests.to_pandas(), record.resources.to_pandas().drop(columns="run")
    resources.loc[resources["quantity"] == "peak_memory_bytes", "value"] = 0.0
    return {
        "samples": record.samples.to_pandas(),
        "outcomes": record.outcomes.to_pandas().drop(columns="run"),
        "stages": stages,
        "resources": resources,
        "requests": requests[[column for column in requests if not column.endswith("_s")]],
    }


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    """An edit of a file."""

    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return edit


def repainted(folder: Path) -> None:
    """An edit of a picture, to one of the same size."""
    Image.new("RGB", (40, 30), (250, 0, 0)).save(folder / "shop" / "4.png")


EDITS: dict[str, tuple[Callable[[Path], None], int]] = {
    "a quality": (replaced("edited.yaml", "[16, 32]", "[16, 64]"), 10),
    "another pipeline": (
        replaced("edited.yaml", "measure:", "  - {scheme: fake, name: more, points: [{levels: 4}]}\nmeasure:"),
        UNITS,
    ),
    "a pipeline less": (replaced("edited.yaml", CODEC_LINE, ""), 5),
    "fewer samples": (replaced("edited.yaml", "samples: 5", "samples: 3"), 9),
    "more samples": (replaced("edited.yaml", "samples: 5", "samples: 6"), UNITS),
    "another seed": (replaced("edited.yaml", "samples: 5", "samples: 5\nseed: 3"), 12),
    "repeats": (replaced("edited.yaml", "repeats: 1", "repeats: 2"), UNITS),
    "warm-up": (replaced("edited.yaml", "warmup: 1", "warmup: 2"), UNITS),
    "threads": (replaced("edited.yaml", "threads: 1", "threads: 2"), 0),
    "scoring": (replaced("edited.yaml", "samples: 5", "samples: 5\nscoring: vlmevalkit-2024"), 0),
    "a question": (replaced("shop/shop.csv", "4.png,Is it dark?", "4.png,Is it very dark?"), 12),
    "a truth": (replaced("shop/shop.csv", "4.png,Is it dark?,no", "4.png,Is it dark?,yes"), 12),
    "a picture": (repainted, 12),
    "the codec": (replaced("edited_codec.py", "point.levels //", "2 * point.levels //"), 5),
    "what the codec imports": (replaced("edited_steps.py", "2", "4"), 5),
}
"""The edits, and how many of the finished answers they leave valid."""


@pytest.mark.parametrize("name", EDITS)
def test_the_rows_are_those_of_the_edited_study(folder: Path, name: str) -> None:
    """Whatever was edited after a first request was timed; what does not depend on the edit is not measured again."""
    edit, kept = EDITS[name]
    with pytest.raises(KeyboardInterrupt):
        _run(folder, "stopped", Stopped(UNITS + 1))
    edit(folder)
    resumed = Silent()
    _run(folder, "stopped", resumed)
    (phase,) = (phase for phase in resumed.phases if phase[0] == "answers")
    assert phase[2] == kept
    _run(folder, "fresh", Silent())
    found, wanted = (_rows(Run.read(folder / run)) for run in ("stopped", "fresh"))
    for kind, frame in wanted.items():
        pd.testing.assert_frame_equal(found[kind], frame, obj=kind)


def test_a_run_whose_codec_ended_the_process_goes_on_when_that_is_mended(folder: Path) -> None:
    """The repeat says where it was; what was finished before and does not depend on the codec is kept."""
    half = "lambda sample, clock: os._exit(3) if sample.id.endswith('4') else whole(sample, clock)"
    replaced("edited_codec.py", "return Fake.device_half(", "import os; whole = Fake.device_half(")(folder)
    with (folder / "edited_codec.py").open("a") as file:
        file.write(f"        return {half}\n")
    ended = forked(_run, folder, "ended", Silent())
    ended.join()
    assert ended.exitcode == 3
    (folder / "edited_codec.py").write_text(CODEC)
    resumed = Silent()
    _run(folder, "ended", resumed)
    assert any("was ended at coarse at -, sample 4: by the code" in told for told in resumed.warnings)
    assert resumed.phases[0] == ("answers", UNITS, 2)
    assert not list(folder.glob(".*.lock"))
