"""Recorded arrivals: read right, or refused with the row and the value."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ScenarioError
from harness.scenario.arrivals import instants
from harness.scenario.replay import RecordedArrivals


def _recorded(path: Path) -> RecordedArrivals:
    return RecordedArrivals.model_validate({"kind": "recorded", "path": path.name}, context={"folder": path.parent})


def _read(tmp_path: Path, text: str, users: int = 2) -> list[list[float]]:
    path = tmp_path / "asked.csv"
    path.write_text(text)
    return [times.tolist() for times in instants(_recorded(path), users)]


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3)), min_size=1, max_size=30))
def test_every_row_is_a_request_of_its_user(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]]
) -> None:
    """None is lost or assigned to another user, and each user's are in order."""
    text = "at_s,user\n" + "".join(f"{at / 1000},{user}\n" for at, user in rows)
    found = _read(tmp_path_factory.mktemp("arrivals"), text, users=4)
    assert found == [sorted(at / 1000 for at, who in rows if who == user) for user in range(4)]


def test_without_users_rows_are_assigned_in_turn(tmp_path: Path) -> None:
    """The rows are assigned to the users in turn."""
    assert _read(tmp_path, "at_s\n0\n1\n2.5\n") == [[0.0, 2.5], [1.0]]


@pytest.mark.parametrize(
    "text", ["at_s, user\n0, 0\n1, 1\n", "\ufeffat_s,user\n0,0.0\n1,1.0\n", "user,at_s\n1,1\n0,0\n"]
)
def test_spaces_points_and_orders_do_not_matter(tmp_path: Path, text: str) -> None:
    """A space in a header, 1.0 for 1, a byte-order mark, columns the other way round."""
    assert _read(tmp_path, text) == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("at_s,user\n0,0\n1,\n", "row 2 has nothing as user"),
        ("at_s,user\n0,0\n,1\n", "row 2 has nothing as at_s"),
        ("at_s,user\n0,0\n1,2\n", "row 2 has 2 as user; with 2 users it is a whole number from 0 to 1"),
        ("at_s,user\n0,0.5\n", "row 1 has 0.5 as user"),
        ("at_s,user\n0,-1\n", "row 1 has -1 as user"),
        ("at_s,user\n0,0\n1,bob\n", "row 2 has 'bob' as user"),
        ("at_s,user\n2024-05-12 10:00:00,0\n", "row 1 has '2024-05-12 10:00:00' as at_s; seconds from the beginning"),
        ("at_s,user\n1700000000.25,0\n", "row 1 has 1700000000.25 as at_s; .*subtract the first"),
        ("at_s,user\n-1,0\n", "row 1 has -1 as at_s"),
        ("at_s,user\n0,0\nnan,0\n", "row 2 has nothing as at_s"),
        ("at_s,user\n1e400,0\n", "row 1 has inf as at_s"),
        ("at_s,at_s\n0,1\n", "has 2 columns 'at_s'"),
        ("at,user\n0,1\n", "has no column 'at_s'; its columns are 'at, user'"),
        ("at_s,user\n", "holds no rows"),
        ("", "is not a CSV"),
        ("at_s,user\n1\n1,2,3\n", "is not a CSV"),
    ],
)
def test_what_is_no_arrival_is_refused_by_row_and_value(tmp_path: Path, text: str, said: str) -> None:
    """Nothing is dropped and nothing guessed."""
    with pytest.raises(ScenarioError, match=said) as caught:
        _read(tmp_path, text)
    assert str(tmp_path / "asked.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_user_without_requests_is_a_user(tmp_path: Path) -> None:
    """Numbers of users may be skipped."""
    found = _read(tmp_path, "at_s,user\n0,0\n", users=3)
    assert [len(times) for times in found] == [1, 0, 0]
    assert np.concatenate(found).tolist() == [0.0]


def test_a_missing_file_a_folder_and_a_device_are_refused(tmp_path: Path) -> None:
    """With the system's reason."""
    for path in (tmp_path / "none.csv", tmp_path, Path("/dev/zero")):
        with pytest.raises(ScenarioError, match="cannot be read"):
            instants(_recorded(path), 1)
