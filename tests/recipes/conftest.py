"""What the tests of the miniatures' stored weights share."""

from collections.abc import Callable, Mapping

import pytest
import torch
from PIL import Image

from harness.data import streetsqa
from harness.data.questions import samples
from harness.models.llava import Llava
from recipes.scores import Tokens, all_tokens, merged, verdicts


@pytest.fixture
def right_of_forty() -> Callable[..., Mapping[str, int]]:
    """How many of forty held-out questions a backbone answers.

    With all tokens, merged to some a patch, merged of a grey picture in the picture's place, and in ways of the caller.
    """

    def count(backbone: Llava, n_clusters: int, **ways: Tokens) -> Mapping[str, int]:
        def blanked(backbone: Llava, image: Image.Image) -> torch.Tensor:
            return merged(n_clusters)(backbone, Image.new("RGB", image.size, (128, 128, 128)))

        asked = samples(streetsqa.book("test", 0)[:10], paired=False)
        ways = {"all": all_tokens, "merged": merged(n_clusters), "blanked": blanked, **ways}
        return {name: sum(verdicts(backbone, asked, way)) for name, way in ways.items()}

    return count
