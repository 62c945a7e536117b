"""What the latencies of a run rest on."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.analysis.setting import strata_of_all

PATCHES = st.lists(st.integers(1, 10), min_size=1, max_size=40)


@given(st.lists(PATCHES, min_size=1, max_size=3))
@example([[1, 2, 3, 10], [1, 1, 1, 5, 5, 9]])
@example([list(range(1, 766)), list(range(1, 2375))])
def test_benchmarks_of_any_sizes_count_alike(patches: list[list[int]]) -> None:
    """The mean of all strata is the mean of the benchmarks' means: exact for a small common multiple of their sizes."""
    asked = pd.DataFrame(
        {
            "benchmark": np.repeat([f"benchmark {n}" for n in range(len(patches))], [*map(len, patches)]),
            "patches": np.concatenate(patches),
        }
    )
    found = strata_of_all(asked)
    largest = max(map(max, patches))
    exact = np.lcm.reduce([*map(len, patches)]) <= 10_000
    assert found.mean() == pytest.approx(np.mean([*map(np.mean, patches)]), abs=1e-9 if exact else largest / 10_000)
    assert set(found) <= set(asked["patches"])
    assert found.size % len(patches) == 0
