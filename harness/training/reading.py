"""The examples of a step, and their pixels and tokens."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.data.drawing.seeded_random import SeededRandom
from harness.models.llava import Llava, LlavaVision
from harness.training.contract import TrainingData
from harness.training.model import Batch
from harness.training.packing import Script, script


class Key(NamedTuple):
    """An example in a pass over the data."""

    example: int
    draw: int


class Share(NamedTuple):
    """Which process of how many this is."""

    rank: int
    processes: int


@functools.lru_cache(2)
def _permutation(size: int, seed: int, draw: int) -> list[int]:
    order: list[int] = torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1009 + draw)).tolist()
    return order


def keys_of_step(pool: Sequence[int], seed: int, batch: int, step: int) -> list[Key]:
    """The ``batch`` examples of a step: every one of ``pool`` once a pass, reshuffled each pass.

    A step's examples follow from its number alone, so that a resumed training sees the same examples.
    """
    places = range(step * batch, (step + 1) * batch)
    return [
        Key(pool[_permutation(len(pool), seed, place // len(pool))[place % len(pool)]], place // len(pool))
        for place in places
    ]


def clusters_of_step(clusters: Sequence[int], seed: int, step: int) -> int:
    """The n_c of a step, the same in every process."""
    return SeededRandom("clusters", seed, step).pick(clusters)


class Reader(Dataset[tuple[Tensor | None, list[Script]]]):
    """Examples as pixels (P, 3, p, p) and scripts; ``pictures`` False leaves the pixels out."""

    def __init__(
        self, data: TrainingData, backbone: Llava | LlavaVision, max_tokens: int, *, pictures: bool = True
    ) -> None:
        self.data, self.pictures = data, pictures
        self._preprocess, self._max_tokens = backbone.preprocess, max_tokens
        if isinstance(backbone, Llava):
            self._tokenizer, self._template = backbone.tokenizer, backbone.template

    def __getitem__(self, key: Key) -> tuple[Tensor | None, list[Script]]:
        example = self.data.example(*key)
        pixels = self._preprocess(example.image()).pixels_PCHW if self.pictures and example.image else None
        shown = example.image is not None
        scripts = [
            script(self._tokenizer, self._template, dialogue, image=shown, max_tokens=self._max_tokens)
            for dialogue in example.dialogues
        ]
        return pixels, scripts


def batches(
    reader: Reader,
    pool: Sequence[int],
    *,
    seed: int,
    batch: int,
    micro_batch: int,
    share: Share,
    first: int,
    workers: int,
) -> Iterator[Batch]:
    """Endless micro-batches of one process, those of step ``first`` first; ``batch`` is over all processes."""

    def keys() -> Iterator[list[Key]]:
        step = first
        while True:
            mine = keys_of_step(pool, seed, batch, step)[share.rank :: share.processes]
            for start in range(0, len(mine), micro_batch):
                yield mine[start : start + micro_batch]
            step += 1

    loader: Any = DataLoader(
        reader,
        batch_sampler=keys(),
        collate_fn=_as_batch,
        num_workers=workers,
        # From Python 3.14 on another start is the default, for which the model's hooks would have to be pickled.
        multiprocessing_context="fork" if workers else None,
    )
    yield from loader


def _as_batch(read: Sequence[tuple[Tensor | None, list[Script]]]) -> Batch:
    return Batch([pixels for pixels, _ in read], [scripts for _, scripts in read])
