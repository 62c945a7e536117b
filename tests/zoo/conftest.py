"""What the tests of the miniatures' stored weights ask them."""

from collections.abc import Callable, Mapping

import pytest

from harness.data import streetsqa
from harness.data.asking import samples
from harness.models.llava import Llava
from harness.zoo.scores import all_tokens, blanked, merged, verdicts


@pytest.fixture
def right_of_forty() -> Callable[[Llava, int], Mapping[str, int]]:
    """How many of forty held-out questions a backbone answers: with all tokens, merged to some a patch, and blanked."""

    def count(backbone: Llava, n_clusters: int) -> Mapping[str, int]:
        asked = samples(streetsqa.book("test", 0)[:10], paired=False)
        ways = {"all": all_tokens, "merged": merged(n_clusters), "blanked": blanked}
        return {name: sum(verdicts(backbone, asked, way)) for name, way in ways.items()}

    return count
