"""An engine outside the harness, and the rows of its stages.

    python examples/own_engine.py [FILE.parquet]

The engine here is a matrix product; use your own. On an accelerator, pass the recorder a function that waits for it:
``harness.record("run.parquet", synchronise=torch.cuda.synchronize)``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import harness


def main(path: str | None = None, questions: int = 3, repeats: int = 2) -> None:
    """Answers some questions, each several times, records how long the stages took, and prints the file's name."""
    path = path or str(Path(tempfile.mkdtemp(prefix="own_engine-")) / "run.parquet")
    weights = np.random.default_rng(0).random((256, 256))
    recorder = harness.record(path)
    for repeat in range(repeats):
        for question in range(questions):
            with recorder.request(f"question {question}", repeat=repeat, pipeline="own_engine") as r:
                with r.stage("prefill"):
                    state = weights @ weights
                with r.stage("generate"):
                    for _ in range(4):
                        state = np.tanh(state @ weights)
    print(f"{path}: the stages of {questions * repeats} requests; a scenario takes it under 'profile:'")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
