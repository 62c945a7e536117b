"""``harness data`` as a user meets it."""

import base64
import hashlib
import io
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from harness.data import benchmarks
from harness.data.benchmarks import BENCHMARKS, Benchmark

Run = Callable[..., tuple[int, str, str]]

HEADER = "index\timage\tquestion\tA\tB\tanswer\tcategory\n"


def rows(n: int, picture: bytes | None = None) -> str:
    """A benchmark of ``n`` questions about one picture."""
    if picture is None:
        file = io.BytesIO()
        Image.new("RGB", (9, 7), "red").save(file, "PNG")
        picture = file.getvalue()
    image = base64.b64encode(picture).decode()
    return HEADER + "".join(f"{i}\t{image if i == 0 else 0}\tWhich?\tcat\tdog\tB\tx\n" for i in range(n))


@pytest.fixture(autouse=True)
def _no_benchmarks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty ``$LMUData``."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets a text pass for the published RealWorldQA."""

    def publish(text: str) -> None:
        md5 = hashlib.md5(text.encode()).hexdigest()
        one = Benchmark(name="RealWorldQA", questions=3, md5=md5, url_path="VLMEval/RealWorldQA.tsv")
        monkeypatch.setattr(benchmarks, "BENCHMARKS", {**BENCHMARKS, "RealWorldQA": one})

    return publish


def test_list_has_a_line_for_each_benchmark(harness: Run, tmp_path: Path) -> None:
    """Name, questions, state, md5 and place."""
    (tmp_path / "MME.tsv").write_text("")
    (tmp_path / "MMStar.tsv.part").write_text("")
    status, out, _ = harness("data", "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert (status, list(lines)) == (0, list(BENCHMARKS))
    assert "2374 questions  installed" in lines["MME"]
    assert "begun" in lines["MMStar"]
    for name in ("absent", "4de008f55dc4fd008ca9e15321dc44b7", str(tmp_path / "RealWorldQA.tsv")):
        assert name in lines["RealWorldQA"]


def test_get_fetches_from_a_mirror_and_check_reads_it(
    harness: Run, tmp_path: Path, published: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded from the mirror in the environment, checked, and listed as installed."""
    published(rows(3))
    mirror = tmp_path / "mirror" / "VLMEval"
    mirror.mkdir(parents=True)
    (mirror / "RealWorldQA.tsv").write_text(rows(3))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(mirror.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TOFC_HARNESS_DATA_MIRROR", f"http://127.0.0.1:{server.server_port}")
        status, out, err = harness("data", "get", "RealWorldQA")
        server.shutdown()
        thread.join()
    assert (status, err) == (0, "")
    assert str(tmp_path / "RealWorldQA.tsv") in out
    assert harness("data", "check") == (0, "RealWorldQA: 3 questions, md5 as published\n", "")


def test_without_a_network_one_sentence(harness: Run, tmp_path: Path) -> None:
    """Status 2, one sentence with address, path and md5, and no file under the benchmark's name."""
    status, _, err = harness("data", "get", "MME", "--mirror", "http://127.0.0.1:9/")
    assert (status, len(err.splitlines())) == (2, 1)
    for part in ("http://127.0.0.1:9/VLMEval/MME.tsv", str(tmp_path / "MME.tsv"), BENCHMARKS["MME"].md5):
        assert part in err
    assert not (tmp_path / "MME.tsv").exists()


@pytest.mark.parametrize("command", ["get", "check"])
def test_an_unknown_name_lists_the_known(harness: Run, command: str) -> None:
    """A name is looked up before anything is fetched."""
    status, _, err = harness("data", command, "MME2")
    assert status == 2
    assert "unknown benchmark 'MME2'; did you mean 'MME'? known: AI2D_TEST" in err


def test_check_says_file_line_column_and_value(harness: Run, tmp_path: Path, published: Callable[[str], None]) -> None:
    """A damaged row and a damaged sum are both reported; a right file beside it is still checked."""
    published(rows(2))
    (tmp_path / "RealWorldQA.tsv").write_text(rows(2))
    path = tmp_path / "MMStar.tsv"
    path.write_text(rows(2).replace("\tB\tx\n1", "\tB\tx\nC").replace("dog\tB\tx\nC", "dog\tE\tx\nC"))
    status, out, err = harness("data", "check")
    assert status == 2
    assert out == "RealWorldQA: 2 questions, md5 as published\n"
    row, md5 = err.splitlines()
    assert row == f"harness: {path}: line 2: column 'answer': 'E' is not among the options A, B"
    assert f"{path}: its md5 is" in md5
    path.write_text(rows(2, b"no picture" * 20))
    _, _, err = harness("data", "check", "MMStar")
    assert "line 2: column 'image'" in err


def test_check_of_an_absent_benchmark(harness: Run, tmp_path: Path) -> None:
    """For an empty folder and an absent benchmark, it says how to get one."""
    status, _, err = harness("data", "check")
    assert (status, len(err.splitlines())) == (2, 1)
    assert f"none of the benchmarks is in {tmp_path}" in err
    status, _, err = harness("data", "check", "MME")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "harness data get MME" in err
