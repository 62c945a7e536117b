"""A report is one file without dependencies, agrees with the rows, and works in a browser, printed, and narrow."""

import base64
import copy
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.analysis import Analysis
from harness.report import page
from harness.report.figures import gallery
from harness.scenario.load import as_given, as_written, load, scenario_hash
from tests.browser import NAMES, Browser, installed

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]
EVIL = "<script>alert(1)</script> & <img src=x onerror=alert(1)>"


class _Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text without style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open not in ("style", "script"):
            self.text += data

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def two(made_up: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs, the second with hostile names; with one figure of each, because others take longer."""
    manifest = made_up.manifest
    changed = manifest.model_copy(
        update={
            "name": "evil",
            "scenario": {**manifest.scenario, "title": EVIL},
            "stand_ins": {EVIL: EVIL},
            "reasons": (EVIL,),
            "digests": {EVIL: EVIL},
        }
    )
    page.render([made_up], figures=[])
    # The rows are the same, and so are all results but the verdict.
    evil = copy.copy(made_up)
    evil.__dict__.pop("reasons")
    evil.record = dataclasses.replace(made_up.record, manifest=changed)
    out = tmp_path_factory.mktemp("report") / "report.html"
    page.write([made_up, evil], out, figures=["fig8"])
    return out


@pytest.fixture(scope="module")
def parsed(two: Path) -> _Parsed:
    """Its tags and text."""
    return _Parsed(two.read_text(encoding="utf-8"))


def test_it_is_one_small_file_that_names_no_other(two: Path, parsed: _Parsed) -> None:
    """Pictures are in it, links go within it, nothing is loaded; below 3 MB."""
    assert two.stat().st_size < page.MOST_BYTES
    assert all(str(image["src"]).startswith("data:image/") for image in parsed.of("img"))
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"]).removeprefix("#") for link in parsed.of("a")} <= set(ids)
    assert not {"link", "iframe", "object", "base", "form", "source"} & {tag for tag, _ in parsed.tags}


def test_its_policy_admits_its_own_script_alone(two: Path, parsed: _Parsed) -> None:
    """The digest in the policy is the script's; nothing else may run or be loaded."""
    (policy,) = [str(m["content"]) for m in parsed.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", two.read_text(encoding="utf-8"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_users_names_are_text(two: Path, parsed: _Parsed) -> None:
    """A title, a stand-in, a reason and a digest that look like tags are drawn as they are."""
    assert len(parsed.of("script")) == 1
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert parsed.text.count(EVIL) >= 5


def test_it_can_be_read_by_all(parsed: _Parsed) -> None:
    """A language, a text for each picture, headed columns and a caption for each table, regions with names."""
    assert parsed.of("html") == [{"lang": "en"}]
    assert len(parsed.of("img")) == 2
    assert all(len(str(image["alt"])) > 20 for image in parsed.of("img"))
    assert len(parsed.of("caption")) == len(parsed.of("table"))
    assert all(head.get("scope") == "col" for head in parsed.of("th"))
    assert all(a.get("aria-label") for _, a in parsed.tags if a.get("role") == "region")


def test_it_agrees_with_the_run(made_up: Analysis, parsed: _Parsed) -> None:
    """Verdict and reasons, the sentence, every point's bytes, the stand-ins at each table, without any script."""
    text = " ".join(parsed.text.split())
    assert "Run tonight is INVALID, judged again from its rows, because: throttled: GPU at 95 C" in text
    assert "answers first" in text
    assert all(str(point) in text for point in made_up.points["point"])
    captions = text.count("Stand-ins: StreetsQA for RealWorldQA")
    assert captions == sum(tag == "table" for tag, _ in parsed.tags) // 2
    assert "estimated" in text


def test_every_number_says_where_it_comes_from(made_up: Analysis, parsed: _Parsed) -> None:
    """Commit, seed, scenario, machine, packages, digests, and the commands that make the run again."""
    manifest, text = made_up.manifest, parsed.text
    (session,) = manifest.sessions
    facts = [
        str(session.commit), f"seed {manifest.seed}", manifest.scenario_hash, str(session.machine["name"]),
        session.packages["numpy"], *manifest.digests.values(), *manifest.tables.values(),
        f"git checkout {session.commit}",
    ]  # fmt: skip
    assert not [fact for fact in facts if fact not in text]


def test_how_to_make_a_run_again_is_a_command(made_up: Analysis) -> None:
    """For a run of 'harness run' with the scenario in the page; for any other, only the command that was run."""
    (session,) = made_up.manifest.sessions
    for command, again in ((("harness", "run", "mine.yaml", "seed=3"), 1), (("harness", "join", "a", "b"), 0)):
        changed = session.model_copy(update={"command": command})
        commands = page._commands(made_up.manifest.model_copy(update={"sessions": (changed,)})).splitlines()
        assert f"#   {' '.join(command)}" in commands
        assert (
            sum(line.endswith(f"harness run scenario.yaml --name {made_up.manifest.name}") for line in commands)
            == again
        )


def test_several_runs_have_contents(parsed: _Parsed) -> None:
    """Each run and each of its parts is linked from the top."""
    links = {link["href"] for link in parsed.of("a")}
    assert {"#run-1", "#run-2", "#run-1-tables", "#run-2-provenance"} <= links


def test_figures_that_do_not_fit_are_left_out_and_named(made_up: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page never exceeds its limit; it names the command that draws what is missing."""
    whole = len(page.render([made_up], figures=[]).encode()) + 110_000
    monkeypatch.setattr(page, "MOST_BYTES", whole)
    found = page.render([made_up], figures=["fig8"])
    assert len(found.encode()) < whole
    assert "harness plot RUN --figure" in found


def test_an_embedded_scenario_is_the_one_that_was_run() -> None:
    """Written as a file and loaded again, every bundled scenario has the hash that it had."""
    import yaml

    from harness.scenario.model import Scenario

    folder = Path(__file__).parents[2] / "scenarios"
    for path in folder.glob("*.yaml"):
        scenario = load(path)
        written = yaml.safe_load(yaml.safe_dump(as_written(as_given(scenario))))
        again = Scenario.model_validate(written, context={"folder": folder})
        assert scenario_hash(again) == scenario_hash(scenario), path.name


def test_the_command_writes_page_and_trace(
    harness: Run, made_up: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both, or one sentence before anything is drawn if one of them cannot be written."""
    monkeypatch.setattr(gallery, "names", lambda _: [])
    (tmp_path / "a").mkdir()
    status, out, err = harness("report", made_up.record.folder, "--out", "a/page.html", "--trace", "b.json")
    assert (status, err) == (0, "")
    assert out.splitlines()[-2:] == ["a/page.html", "b.json"]
    assert (tmp_path / "a/page.html").is_file()
    assert (tmp_path / "b.json").is_file()
    status, _, err = harness("report", made_up.record.folder, "--out", "b.json/page.html")
    assert status == 2
    assert len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    if (program := installed()) is None:
        pytest.skip(f"no Chromium is installed ({', '.join(NAMES)})")
    with Browser(program, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize(("width_px", "dark"), [(1200, False), (400, False), (400, True)])
def test_a_browser_shows_it_without_errors(browser: Browser, two: Path, width_px: int, dark: bool) -> None:
    """No error on the console, no request but for the file, all pictures drawn, nothing wider than the window."""
    browser.open(two, width_px=width_px, dark=dark)
    assert browser.complaints() == []
    assert browser.asked_for() == [two.as_uri()]
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width_px
    beyond = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, pre')
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName)"""
    assert browser.evaluate(beyond) == []
    light, ink = (browser.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color"))
    assert (sum(map(int, re.findall(r"\d+", light))) < sum(map(int, re.findall(r"\d+", ink)))) == dark


def test_a_browser_sorts_tables(browser: Browser, two: Path) -> None:
    """By number if a column has numbers, ascending and then descending, missing ones last; otherwise by name."""
    browser.open(two)
    table = "document.querySelectorAll('table.sortable')[0]"
    heads = browser.evaluate(f"[...{table}.tHead.rows[0].cells].map(c => c.textContent)")
    for head, numbers in (("total, mean", True), ("scheme", False)):
        place = heads.index(head)
        click = f"{table}.tHead.rows[0].cells[{place}].querySelector('button').click()"
        cells = f"[...{table}.tBodies[0].rows].map(r => r.cells[{place}].dataset.key ?? r.cells[{place}].textContent)"
        for up in (True, False):
            browser.evaluate(click)
            found = browser.evaluate(cells)
            known = [float(value) if numbers else value for value in found if value]
            assert found[len(known) :] == [""] * (len(found) - len(known))
            assert known == sorted(known, reverse=not up)
            assert len(set(known)) > 2
        sort = browser.evaluate(f"{table}.tHead.rows[0].cells[{place}].getAttribute('aria-sort')")
        assert sort == "descending"
    assert browser.evaluate(f"{table}.tHead.querySelectorAll('[aria-sort]').length") == 1


def test_it_prints(browser: Browser, two: Path) -> None:
    """As a PDF of several pages, in black on white."""
    browser.open(two, dark=True)
    data = base64.b64decode(browser("Page.printToPDF")["data"])
    assert data.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) > 2
