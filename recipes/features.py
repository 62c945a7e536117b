"""The tower's features of training pictures, merged and cached on disk: what the language model learns from.

Drawing a picture and encoding and merging its tiles costs several times what the language model does with them. Done
once, it makes the many steps affordable that are needed to learn to read a question.

    P patches   V features a patch   C clusters   D dimension
"""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.cli.display import Display, terminal
from harness.data.drawing.seeded_random import SeededRandom
from harness.data.questions import Page
from harness.tofc.merging import merge
from harness.training.bundled import book_of
from harness.training.features import read_or_made
from harness.workers import spread
from recipes.tower import Tower, encode
from recipes.views import ONEVISION, Sight

CLUSTERS = 6
"""n_c of the paper's largest setting: 4.2 % of the 144 features of a tile."""
OTHER_CLUSTERS = (2, 3, 4, 5, 8)
"""Half of the lessons are about another n_c, so that the model does not rely on one."""


@dataclasses.dataclass(frozen=True, slots=True)
class CachedKind:
    """What is cached: the features of a sight, merged to ``usual`` or, half of the time, to one of ``others``."""

    sight: Sight = ONEVISION
    usual: int = CLUSTERS
    others: tuple[int, ...] = OTHER_CLUSTERS

    def clusters(self, rng: SeededRandom) -> int:
        """The n_c of a lesson."""
        return self.usual if rng.one_in(2) else rng.pick(self.others)


def cache_book(tower: Tower, folder: Path, number: int, kind: CachedKind = CachedKind()) -> None:
    """Encode and merge a book's pictures into ``folder/<number>.safetensors``, unless it is there."""

    def made() -> dict[str, Tensor]:
        rng = SeededRandom("clusters", number)
        merged = {}
        with torch.inference_mode():
            for index, page in enumerate(book_of(number)):
                x_PVD = encode(tower, kind.sight.tiling(page.scene().image).pixels_PCHW, kind.sight)
                merged[str(index)] = merge(x_PVD, kind.clusters(rng)).y_PCD.half()
        return merged

    read_or_made(folder / f"{number:04d}.safetensors", made)


def cache_books(tower: Tower, folder: Path, books: int, workers: int, kind: CachedKind = CachedKind()) -> None:
    """Cache the first ``books`` books in ``workers`` processes."""

    def cache(number: int) -> None:
        if workers > 1:
            torch.set_num_threads(1)
        cache_book(tower, folder, number, kind)

    with Display(terminal()) as display:
        display.phase("features", books, 0)
        for _ in spread(cache, range(books), workers):
            display.advance()


class Lessons:
    """Cached pictures with their pages, in memory."""

    def __init__(self, folder: Path, books: int) -> None:
        self._pages: list[tuple[Page, Tensor]] = []
        for number in range(books):
            merged = load_file(folder / f"{number:04d}.safetensors")
            self._pages += [(page, merged[str(index)]) for index, page in enumerate(book_of(number))]

    def __len__(self) -> int:
        return len(self._pages)

    def draw(self, rng: SeededRandom) -> tuple[Page, Tensor]:
        """A page and its merged features (P, C, D)."""
        page, y_PCD = rng.pick(self._pages)
        return page, y_PCD.float()
