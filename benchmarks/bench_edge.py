"""Two machines on one: a real shaped link between them, ends that are killed, and hostile requests.

- ``link``: ``serve`` in one network namespace, ``run --server`` in another, a token bucket between (Linux, root). The
  rows must be those of a run in one process; T_link, measured as on any two machines (round trip less residence), is
  set beside the replay's for the bytes that crossed. What HTTP and the host add is calibrated, as ``harness validate``
  does, on the smallest payload, which the bucket lets through at once: its median is added to the replay's. The limit
  is 2 % in the mean of each payload of at least ten bursts of the bucket; smaller ones are printed apart.
- ``kills``: SIGKILL of the server at half of the moments, of the device at the others; the rows must be those of a run
  that was not killed.
- ``hostile``: requests without a token, too large, cut, of another model, bombs of lengths and of pixels, slow and
  half-open connections, beside a good device whose answers must be right. Memory is watched, and every byte that comes
  back is searched for a traceback.

A missed goal is printed, and the exit status is then 1.

    sudo python -m benchmarks.bench_edge [--quick] [link] [kills] [hostile]
"""

import argparse
import asyncio
import contextlib
import dataclasses
import io
import os
import random
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import psutil
from PIL import Image
from pydantic import Field

from harness import catalog, loaded, measure, study
from harness.channel.channel import Constant
from harness.channel.link import Link
from harness.data.sample import Question, Sample
from harness.edge import TOKEN_VARIABLE, protocol
from harness.edge.client import Peer, Remote
from harness.edge.server import ServerLimits, listening, serve
from harness.errors import UnavailableError
from harness.models.contract import Answer, Clock, Models, Request
from harness.replay import exchange, testbed, validation
from harness.runs.provenance import MANIFEST, read
from harness.runs.store import Record, Run
from harness.scenario.load import load
from harness.scenario.replay import Wire
from harness.schemes.contract import DeviceHalf, OperatingPoint, Payload, ServerHalf
from harness.stock import take_stock
from harness.units import format_bytes, format_rate, format_seconds
from tests.edge import ends, fake_harness
from tests.silent import Silent

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.02
BURSTS = 10
SIZED = "benchmarks.bench_edge:Sized"
PORT = 8000

SIZES = (300, 3_000, 10_000, 40_000, 100_000, 300_000)
_SIZED = """
name: sized
title: Payloads of known sizes
benchmark: three_pages
backbone: fake
weights: random
samples: 12
pipelines:
  - {{ scheme: sized, name: reference, points: [{{ size_bytes: 3000 }}] }}
  - {{ scheme: sized, points: [{{ size_bytes: {sizes}, refill_s: {refill_s} }}] }}
measure: {{ timed_samples: 3, warmup: 1, repeats: {repeats} }}
selection: {{ reference: reference, target: 0.5, margin: 0.4, confidence: 0.8, resamples: 200 }}
replay:
  uplinks: [{{ kind: constant, rate: 25 KB/s }}]
"""


class SizedPoint(OperatingPoint):
    """``size_bytes`` of noise are sent, ``refill_s`` after the last request: the token bucket is full again by then."""

    size_bytes: int = Field(ge=1, le=1 << 24)
    refill_s: float = Field(default=0.0, ge=0)


class Sized:
    """Sends noise of a known size; the server answers without it."""

    kind: ClassVar[str] = "sized"
    Point: ClassVar[type[OperatingPoint]] = SizedPoint

    @classmethod
    def device_half(cls, models: Models, point: Any) -> DeviceHalf:  # noqa: ARG003
        """Needs nothing."""
        noise = np.random.default_rng(point.size_bytes).bytes(point.size_bytes)

        def half(sample: Sample, clock: Clock) -> Payload:  # noqa: ARG001
            with clock.stage("refill"):
                time.sleep(point.refill_s)
            return Payload(cls.kind, (noise,))

        return half

    @classmethod
    def server_half(cls, models: Models, point: Any) -> ServerHalf:  # noqa: ARG003
        """Needs the fake language side."""
        language = models.language()

        def half(payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
            # The fake counts tokens alone: without torch.
            tokens: list[Any] = [np.zeros((1, 8)) for _ in payload.bodies]
            return [language.answer([Request(tokens, question)], [clock])[0] for question in questions]

        return half


def patch() -> None:
    """The fakes, and noise of a known size, in the tables of names."""
    fake_harness.patch()
    schemes: Any = catalog.SCHEMES
    schemes["sized"] = SIZED


def measured_links(folder: Path, *, rate_bps: float, sizes: Sequence[int], repeats: int) -> tuple[Record, pd.DataFrame]:
    """A run over a shaped link, and of each of its transfers the bytes sent, T_link measured and T_link replayed.

    Raises UnavailableError where there can be no such link.
    """
    scenario = folder / "sized.yaml"
    refill_s = validation.refill_s(rate_bps)
    scenario.write_text(_SIZED.format(sizes=list(sizes), refill_s=refill_s, repeats=repeats))
    command = [sys.executable, "-m", "benchmarks.bench_edge", "--end"]
    on_device = [*command, "device", str(scenario), str(folder / "sized"), str(rate_bps)]
    with testbed.joined(on_device, [*command, "server", str(scenario)]) as (device, server):
        testbed.say(server, {"go": True})
        testbed.hear(server)
        testbed.say(device, {"go": True})
        testbed.hear(device)
    found = Run.read(folder / "sized")
    links = found.links.to_pandas().query("pipeline == 'sized'")
    wire = Wire.model_construct(
        header_bytes=testbed.HEADER_BYTES, segment_bytes=1448, burst_bytes=validation.BURST_BYTES, propagation_s=0.0
    )
    links["link_s"] = links["round_trip_s"] - links["residence_s"]
    links["replayed_s"] = [Link(Constant(rate_bps), wire).send(0.0, int(n)) for n in links["sent_bytes"]]
    links["bursts"] = links["payload_bytes"] / validation.BURST_BYTES
    return found, links


def summary(links: pd.DataFrame) -> pd.DataFrame:
    """Means over the requests of each payload, smallest first; the replay's error is relative to what was measured.

    ``host_s``, the median over the smallest payload's requests beyond what the link takes for them, is in the replay.
    """
    smallest = links[links["payload_bytes"] == links["payload_bytes"].min()]
    host_s = float((smallest["link_s"] - smallest["replayed_s"]).median())
    links = links.assign(replayed_s=links["replayed_s"] + host_s, host_s=host_s)
    columns = ["sent_bytes", "link_s", "replayed_s", "host_s", "bursts"]
    means = links.groupby("payload_bytes")[columns].mean().assign(requests=links.groupby("payload_bytes").size())
    return means.assign(error=means["replayed_s"] / means["link_s"] - 1).reset_index()


def same_rows(found: Record, wanted: Record) -> list[str]:
    """The tables in which two runs differ, apart from times and from what says which process wrote a row."""
    ours, theirs = (_without_times(record) for record in (found, wanted))
    return [kind for kind in ours if not ours[kind].equals(theirs[kind])]


def _without_times(record: Record) -> dict[str, pd.DataFrame]:
    times = ["seconds", "cpu_s", "waited_s", "load", "start", "run"]
    requests = record.requests.to_pandas()
    return {
        "samples": record.samples.to_pandas(),
        "stages": record.stages.to_pandas().drop(columns=times),
        "outcomes": record.outcomes.to_pandas().drop(columns="run"),
        "requests": requests[[name for name in requests.columns if not name.endswith("_s")]],
    }


def end(name: str, scenario: str, folder: str = "", rate: str = "") -> None:
    """One end of the link, as a process of its own."""
    exchange.enter(name)
    patch()
    # What halves need besides time is no matter here, and would load torch to count it.
    measure.weigh = lambda *_, **__: None
    # The link is measured: other work on this machine must not be part of it.
    with exchange.undisturbed(name):
        if name == "server":
            service = loaded.service(take_stock(load(Path(scenario)), serving=True), token=None, limits=ServerLimits())
            with listening(exchange.ADDRESS[name], PORT) as listener:
                serve(service, listener, lambda: exchange.say({"listening": True}))
        exchange.shape("add", rate_bps=float(rate), burst_bytes=validation.BURST_BYTES)
        remote = Remote(url=f"http://{exchange.ADDRESS['server']}:{PORT}")
        study.run(load(Path(scenario)), Path(folder), reporter=Silent(), remote=remote)
        exchange.say({"done": True})


def bench_link(folder: Path, *, quick: bool) -> list[str]:
    """T_link at two rates."""
    missed = []
    for rate_bps in (2e6,) if quick else (0.8e6, 2e6, 8e6):
        at_rate = folder / f"{rate_bps:.0f}"
        at_rate.mkdir()
        found, links = measured_links(at_rate, rate_bps=rate_bps, sizes=SIZES, repeats=2 if quick else 6)
        means = summary(links)
        print(
            f"\nT_link through a token bucket of {validation.BURST_BYTES} B at {format_rate(rate_bps)}, means; HTTP "
            f"and the host add {format_seconds(means['host_s'].iloc[0])}, calibrated on the smallest"
        )
        print(f"  {'payload':>10}{'bursts':>8}{'requests':>10}{'sent':>11}{'measured':>12}{'replayed':>12}{'error':>9}")
        for row in means.to_dict("records"):
            counts = row["bursts"] >= BURSTS
            print(
                f"  {format_bytes(row['payload_bytes']):>10}{row['bursts']:>8.1f}{row['requests']:>10.0f}"
                f"{format_bytes(row['sent_bytes']):>11}{format_seconds(row['link_s']):>12}"
                f"{format_seconds(row['replayed_s']):>12}{row['error']:>+9.2%}{'' if counts else '  (small)'}"
            )
            if counts and abs(row["error"]) > LIMIT:
                missed.append(
                    f"T_link of {format_bytes(row['payload_bytes'])} at {format_rate(rate_bps)} is off by "
                    f"{row['error']:+.2%} (limit {LIMIT:.0%})"
                )
        alone = at_rate / "alone" / "sized"
        study.run(load(at_rate / "sized.yaml"), alone, reporter=Silent())
        differ = same_rows(found, Run.read(alone))
        print(f"  rows beside those of one process, apart from times: {', '.join(differ) or 'the same'}")
        missed += [f"{kind} differ from those of one process" for kind in differ]
    return missed


def bench_kills(folder: Path, *, quick: bool) -> list[str]:
    """Kills the ends at random moments."""
    moments, moment = 4 if quick else 15, random.Random(16)
    scenario = folder / "fake.yaml"
    scenario.write_text(fake_harness.SCENARIO.format(samples=12, timed=3, repeats=8 if quick else 40))
    study.run(load(scenario), folder / "alone" / "fake", reporter=Silent())
    wanted = Run.read(folder / "alone" / "fake")
    missed = []
    for killed in ("server", "device"):
        run = folder / killed / "fake"
        run.parent.mkdir()
        server, port = ends.server(scenario)
        device, kills = ends.device(scenario, run, port, "15 KB/s"), 0
        while device.is_alive() or (killed == "device" and kills < moments):
            if kills == moments:
                device.join()
                break
            if killed == "server":
                time.sleep(0.05 + moment.random() * 0.5)
                server.kill()
                server.join()
                kills += device.is_alive()
                server, port = ends.server(scenario, port)
            else:
                # Only after its session has begun: killing a process that does nothing yet shows nothing.
                begun = _sessions(run)
                while device.is_alive() and _sessions(run) == begun:
                    time.sleep(0.005)
                device.join(moment.random())
                kills += device.is_alive()
                device.kill()
                device.join()
                device = ends.device(scenario, run, port, "15 KB/s")
                if read(run / MANIFEST).status == "complete":
                    break
        device.join()
        server.kill()
        found = Run.read(run)
        timed = sum(1 for (pipeline, *_) in set(_requests(wanted)) if pipeline != "alone")
        differ = same_rows(found, wanted)
        print(
            f"\nthe {killed} was killed {kills} times: {len(found.manifest.sessions)} sessions, {found.links.num_rows} "
            f"of {timed} transfers, rows {'differ: ' + ', '.join(differ) if differ else 'as of an undisturbed run'}"
        )
        missed += [f"the {killed} was killed and {kind} differ" for kind in differ]
        if found.links.num_rows != timed:
            missed.append(f"the {killed} was killed: {found.links.num_rows} transfers, and {timed} requests were timed")
        if kills < moments:
            missed.append(f"the {killed} was killed {kills} times, and {moments} were wanted: the run was too short")
    return missed


def _sessions(run: Path) -> int:
    return len(read(run / MANIFEST).sessions) if (run / MANIFEST).exists() else 0


def _requests(record: Record) -> Iterator[tuple[str, ...]]:
    for row in record.stages.select(["pipeline", "point", "sample", "repeat"]).to_pylist():
        yield tuple(map(str, row.values()))


def bombs(asked: protocol.Ask) -> dict[str, bytes]:
    """Small JPEG payloads that demand much: thousands of millions of pixels, and files that are not pictures."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    jpeg = bytearray(file.getvalue())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    png += _chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9)) + _chunk(b"IEND", b"")
    from harness.schemes.envelope import pack

    return {
        "a JPEG of 4 thousand million pixels": protocol.pack(asked, pack(Payload("jpeg", (bytes(jpeg),)))),
        "a PNG in a JPEG's place": protocol.pack(asked, pack(Payload("jpeg", (png,)))),
        "a JPEG that ends": protocol.pack(asked, pack(Payload("jpeg", (file.getvalue()[:400],)))),
    }


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@dataclasses.dataclass
class Good:
    """A device that keeps sending requests."""

    peer: Peer
    wanted: list[Answer]
    answered: int = 0
    wrong: int = 0
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    def go_on(self) -> None:
        """Until it is stopped."""
        from tests.edge import hostile

        while not self.stop.is_set():
            told, _ = self.peer.ask(*hostile.KEY, hostile.PAYLOAD, [hostile.PAGE.question], timed=True)
            self.wrong += [answer.answer() for answer in told.answers] != self.wanted
            self.answered += 1


def bench_hostile(folder: Path, *, quick: bool) -> list[str]:
    """At least a thousand requests, a hundred at a time."""
    from tests.edge import hostile

    n = 100 if quick else 1000
    scenario = folder / "hostile.yaml"
    text = fake_harness.SCENARIO.format(samples=12, timed=3, repeats=1)
    jpeg = "  - { scheme: jpeg, points: [{ quality: 50, merge_to: 0.25 }] }\nmeasure:"
    scenario.write_text(text.replace("measure:", jpeg))
    limits = ("--most", "1 MiB", "--within", "1 s", "--queue", "4")
    with ends.serving(scenario, *limits, **{TOKEN_VARIABLE: hostile.TOKEN}) as address:
        peer = Peer(address, loaded.describe(take_stock(load(scenario))), token=hostile.TOKEN)
        process = _listener(address)
        attacks = hostile.hostile(peer.info.identity)
        point = next(iter(peer.info.points["jpeg"]))
        asked = protocol.asked("jpeg", point, [hostile.PAGE.question], timed=True)
        for name, data in bombs(asked).items():
            attacks[name] = (hostile.head(len(data), peer.info.identity) + data, {422})
        told, _ = peer.ask(*hostile.KEY, hostile.PAYLOAD, [hostile.PAGE.question], timed=True)
        good = Good(peer, [answer.answer() for answer in told.answers])
        thread = threading.Thread(target=good.go_on)
        before, most = process.memory_info().rss, 0
        thread.start()

        async def all_of_them() -> list[tuple[str, int, bytes]]:
            at_once = asyncio.Semaphore(100)

            async def one(name: str) -> tuple[str, int, bytes]:
                nonlocal most
                async with at_once:
                    seen = await hostile.attack(address, attacks[name][0])
                    most = max(most, process.memory_info().rss)
                    return name, *seen

            return await asyncio.gather(*(one(name) for _ in range(-(-n // len(attacks))) for name in attacks))

        try:
            seen = asyncio.run(all_of_them())
        finally:
            good.stop.set()
            thread.join()
            peer.close()
    told_back = [name for name, _, said in seen if b"Traceback" in said or b".py" in said]
    strange = Counter((name, status) for name, status, _ in seen if status not in attacks[name][1] | {429})
    grown = most - before
    print(
        f"\n{len(seen)} hostile requests of {len(attacks)} kinds, 100 at a time: {good.answered} answers to a good "
        f"device meanwhile, {good.wrong} of them wrong; the server's memory grew by at most {format_bytes(grown)}; "
        f"{len(told_back)} tracebacks on the wire; {sum(strange.values())} answered by another status than they should"
    )
    bound = 4 * hostile.MOST_BYTES + 100 * (256 << 10) + (64 << 20)
    return [
        *(["the good device had no or wrong answers"] if good.wrong or not good.answered else []),
        *([f"memory grew by {format_bytes(grown)} (limit {format_bytes(bound)})"] if grown > bound else []),
        *(f"a traceback was sent to: {name}" for name in dict.fromkeys(told_back)),
        *(f"{name}: answered {status} {count} times" for (name, status), count in strange.items()),
    ]


def _listener(address: str) -> psutil.Process:
    port = int(address.rpartition(":")[2])
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(found.laddr.port == port for found in child.net_connections() if found.status == "LISTEN"):
                return child
    raise LookupError(f"no process listens on {port}")


def main() -> None:
    """Run the named parts and print their results."""
    benches = {"link": bench_link, "kills": bench_kills, "hostile": bench_hostile}
    if sys.argv[1:2] == ["--end"]:
        end(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute instead of several")
    parser.add_argument("which", nargs="*", help=f"parts to run, of {', '.join(benches)}; default: all")
    chosen = parser.parse_args()
    if unknown := set(chosen.which) - benches.keys():
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(benches)}")
    patch()
    missed = []
    for name in chosen.which or benches:
        with tempfile.TemporaryDirectory() as folder:
            try:
                missed += benches[name](Path(folder), quick=chosen.quick)
            except UnavailableError as error:
                print(f"\n{name}: {error}")
                if name in chosen.which:
                    missed.append(f"{name} was not done")
    print(f"\n{'missed: ' + '; '.join(missed) if missed else 'all goals met'}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
