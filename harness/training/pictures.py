"""A folder of pictures as training data: fitting only a codec needs no questions."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from harness.data import pictures
from harness.errors import DataError
from harness.files import no_folder, why
from harness.scenario.fields import Frozen
from harness.training.contract import Example

T = TypeVar("T")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Pictures:
    """All pictures below a folder, in the order of their paths.

    Raises DataError, naming the file, where the folder is absent or empty, or holds a picture that cannot be read: the
    header of each is read first.
    """

    asks = False

    class Config(Frozen):
        """The folder, and how many of its pictures to take (all without it)."""

        kind: Literal["pictures"]
        folder: str
        pictures: int | None = Field(default=None, ge=1)

    def __init__(self, config: Config, template: Any = None) -> None:  # noqa: ARG002
        self._folder = Path(config.folder)
        if not self._folder.is_dir():
            raise DataError(f"{self._folder}: {no_folder(self._folder)}; a folder of pictures is expected")
        found = sorted(path for path in self._folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self._paths = found[: config.pictures]
        if not self._paths:
            raise DataError(f"{self._folder}: holds no picture ({', '.join(SUFFIXES)})")
        self._of_content = {self._name(path): self._read(path, self._looked_at) for path in self._paths}

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def identity(self) -> str:
        """The folder's name, the number of its pictures and their size, and a digest of each one's path and content."""
        size = sum(size for size, _ in self._of_content.values())
        digest = hashlib.sha256(json.dumps(self._of_content).encode()).hexdigest()[:8]
        return f"{len(self)} pictures of {self._folder.resolve().name}, {size} bytes, {digest}"

    def picture(self, index: int) -> str:
        """The path below the folder."""
        return self._name(self._paths[index])

    def content(self, index: int) -> str:
        """The digest of the file as it was when the folder was read."""
        return self._of_content[self.picture(index)][1]

    def example(self, index: int, draw: int) -> Example:  # noqa: ARG002
        """A picture, without a question."""
        path = self._paths[index]
        return Example(self._name(path), (), functools.partial(self._read, path, pictures.decode))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    @staticmethod
    def _looked_at(content: bytes) -> tuple[int, str]:
        pictures.header(content)
        return len(content), hashlib.sha256(content).hexdigest()

    def _read(self, path: Path, read: Callable[[bytes], T]) -> T:
        try:
            found = read(path.read_bytes())
        except OSError as error:
            said = why(error)
        except DataError as error:
            said = str(error)
        else:
            return found
        raise DataError(f"{path}: cannot be read as a picture: {said}")
