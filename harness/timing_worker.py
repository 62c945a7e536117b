"""Times the stages of a scenario, one request for each order: one side of ``harness compare --against``.

    python -P harness/timing_worker.py SCENARIO PICTURES

It is run by its path, with ``PYTHONPATH`` leading to the checkout whose code it times, which may be older than this
file, so it uses little of that code. It answers with lines of JSON: what it times, then a line for each line that it
reads, a request: the number of a turn, which decides the question, a scheme and a point. It reports how long each stage
took, and for how much of that the process was kept from running. No answer is judged and nothing is written.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO


def main(scenario_file: Path, pictures: int, orders: TextIO, told: TextIO) -> None:
    """Times requests until ``orders`` ends."""
    import numpy as np

    import harness
    from harness.loaded import prepare
    from harness.measure import Split
    from harness.models.contract import Answer, Untimed
    from harness.profiling.clock import StageClock, synchroniser
    from harness.profiling.disturbance import Watch
    from harness.profiling.machine import this_machine
    from harness.runs import digests, provenance
    from harness.scenario.load import load
    from harness.schemes.envelope import send
    from harness.stock import take_stock

    stock = take_stock(load(scenario_file))
    study = prepare(stock)
    first_of = {name.image_id: place for place, name in reversed(list(enumerate(stock.samples.names)))}
    every = sorted(first_of.values())
    # Spread over the benchmark: neighbours in a file are alike.
    chosen = sorted({every[round(place)] for place in np.linspace(0, len(every) - 1, pictures)})
    samples = [stock.samples[place] for place in chosen]

    def request(split: Any, sample: Any, clocks: Any) -> None:
        sent = send(split.device, sample, clocks["device"])
        if not isinstance(sent, Answer):
            split.serve(sent, [sample.question], clocks["server"])

    def say(data: object) -> None:
        told.write(json.dumps(data) + "\n")
        told.flush()

    for split in study.halves.values():
        assert isinstance(split, Split)
        request(split, samples[0], {"device": Untimed(), "server": Untimed()})
    say(
        {
            "package": str(Path(harness.__file__).parents[1]),
            "packages": provenance.package_versions(),
            "machine": this_machine()["name"],
            "points": [list(key) for key in study.halves],
            "questions": digests.of_data([[s.image_id, repr(s.question), s.truth] for s in samples]),
        }
    )
    with Watch() as watch:
        for line in orders:
            turn, pipeline, point = json.loads(line)
            watch.begin()
            clocks = {side: StageClock(synchroniser(study.device), watch) for side in ("device", "server")}
            request(study.halves[pipeline, point], samples[turn % len(samples)], clocks)
            waits = {side: clock.waited_s() for side, clock in clocks.items()}
            say(
                [
                    [pipeline, point, side, stage, seconds, waits[side].get(stage, 0.0)]
                    for side, clock in clocks.items()
                    for stage, seconds in clock.seconds.items()
                ]
            )


if __name__ == "__main__":
    # Output of libraries goes to standard error: standard output carries the protocol.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.stdin, answers)
    except BrokenPipeError:
        sys.exit(1)
