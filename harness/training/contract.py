"""The contract of training data: pictures, each with dialogues about it."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from PIL import Image

from harness.models.prompts import Template
from harness.scenario.fields import Frozen


class Turn(NamedTuple):
    """What the user says, without the template's words around it, and the answer to learn, without its stop."""

    text: str
    answer: str


Dialogue = tuple[Turn, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """A picture, or none, and one or several dialogues about it; a dialogue does not see the others.

    ``image`` reads the picture as RGB when it is called; it raises DataError, naming the example, where it cannot.
    """

    id: str
    dialogues: tuple[Dialogue, ...]
    image: Callable[[], Image.Image] | None


class TrainingData(Protocol):
    """A set of examples; ``Config`` is its part of a training's configuration.

    Made of its configuration and the template of the backbone that will read it. ``asks`` says whether there are
    dialogues about the pictures: without them, only a codec can be trained, on the features.
    """

    Config: ClassVar[type[Frozen]]
    asks: ClassVar[bool]

    def __init__(self, config: Any, template: Template) -> None: ...

    def __len__(self) -> int:
        """How many examples there are."""
        ...

    def example(self, index: int, draw: int) -> Example:
        """Example ``index``, always the same; ``draw`` numbers the passes over the data.

        What is asked about a picture may differ from pass to pass.
        """
        ...

    @property
    def identity(self) -> str:
        """What identifies these data, in one line."""
        ...

    def picture(self, index: int) -> str | None:
        """What identifies the picture of example ``index``; None where it shows none. Cheap."""
        ...

    def content(self, index: int) -> str:
        """What identifies the pixels of example ``index``, which shows a picture; raises DataError where it is gone.

        A data set's identity need not depend on them: a file of conversations has only its pictures' paths.
        """
        ...
