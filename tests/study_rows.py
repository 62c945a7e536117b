"""A made-up study's rows, large enough to be sorted wrongly."""

from collections.abc import Iterator

from harness.records import OutcomeRow, RequestRow, StageRow

Unit = tuple[str, list[StageRow], list[OutcomeRow], list[RequestRow]]


def units(pipelines: tuple[str, ...] = ("webp", "jpeg"), samples: int = 3) -> Iterator[Unit]:
    """The units of a small study in the order in which they are worked: answers, timings, one replay."""
    for pipeline in pipelines:
        for sample in range(samples):
            outcome = OutcomeRow(
                run="tonight", pipeline=pipeline, point="quality=10", sample=f"s{sample:03}", category="all",
                group=f"s{sample:03}", payload_bytes=1000 + sample, visual_tokens=32, answer="A", truth="B",
                correct=False,
            )  # fmt: skip
            yield f"answers {pipeline} quality=10 {sample:04}", [], [outcome], []
    for repeat in range(2):
        for pipeline in pipelines:
            stages = [
                StageRow(
                    run="tonight", pipeline=pipeline, point="quality=10", sample="s000", repeat=repeat, side=side,
                    stage=stage, seconds=0.01 * len(stage), energy_j=None, machine="m", source="measured",
                )
                for side, stage in (("device", "preprocess"), ("device", "encode"), ("server", "decode"))
            ]  # fmt: skip
            yield f"times {pipeline} round {repeat}", stages, [], []
    requests = [
        RequestRow(
            replay="one user", pipeline=pipeline, point="quality=10", sample="s000", channel="25 KB/s", users=1, seed=0,
            user=0, submitted_s=float(i), device_done_s=i + 0.1, sent_s=i + 0.1, delivered_s=i + 0.3, answered_s=None,
        )
        for pipeline in pipelines
        for i in range(3)
    ]  # fmt: skip
    yield "replay 25 KB/s", [], [], requests
