"""The stage clock."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SchemeError
from harness.models.contract import Untimed
from harness.profiling.clock import StageClock, synchroniser


def test_a_stage_takes_at_least_the_time_it_took() -> None:
    """Sleeping is a lower bound that no scheduler breaks."""
    clock = StageClock()
    with clock.stage("merge"):
        time.sleep(0.02)
    assert clock.seconds["merge"] >= 0.02


def test_the_accelerator_is_waited_for_on_both_edges_of_every_stage() -> None:
    """Before, so that earlier work is not charged to the stage; after, so that its own is."""
    seen: list[str] = []
    clock = StageClock(lambda: seen.append("idle"))
    for name in ("a", "b"):
        with clock.stage(name):
            seen.append(name)
    assert seen == ["idle", "a", "idle", "idle", "b", "idle"]


def test_what_the_accelerator_still_does_is_charged_to_its_stage() -> None:
    """A synchroniser that takes 20 ms stands for queued work; only the second edge's wait counts."""
    clock = StageClock(lambda: time.sleep(0.02))
    with clock.stage("vision_encode"):
        pass
    assert 0.02 <= clock.seconds["vision_encode"] < 0.04


@given(st.lists(st.sampled_from(["decode", "merge", "prefill"]), max_size=12))
def test_stages_keep_the_order_of_their_first_end_and_repeats_add_up(names: list[str]) -> None:
    """Two questions about one image prefill twice: one stage, both times."""
    clock = StageClock()
    for name in names:
        with clock.stage(name):
            pass
    assert list(clock.seconds) == list(dict.fromkeys(names))
    assert all(seconds >= 0 for seconds in clock.seconds.values())


def test_a_stage_that_fails_leaves_no_time() -> None:
    """Half a decode is not a decode."""
    clock = StageClock()
    with pytest.raises(ZeroDivisionError), clock.stage("decode"):
        _ = 1 / 0
    assert clock.seconds == {}


def test_untimed_runs_the_body() -> None:
    """The clock of the answers' pass."""
    ran = []
    with Untimed().stage("merge"):
        ran.append(1)
    assert ran == [1]


def test_a_cpu_has_nothing_to_wait_for() -> None:
    """Work on a CPU is done when the call returns."""
    assert synchroniser("cpu") is None


def test_stages_do_not_overlap() -> None:
    """The time of the inner one would count twice; the clock goes on behind the mistake."""
    clock = StageClock()
    sentence = "the stage 'encode' begins inside the stage 'merge'; stages follow one another"
    with pytest.raises(SchemeError, match=sentence), clock.stage("merge"), clock.stage("encode"):
        pass
    assert clock.seconds == {}
    with clock.stage("encode"):
        pass
    assert list(clock.seconds) == ["encode"]


@pytest.mark.parametrize("name", [3, None, "", "two\nlines"])
def test_a_stage_has_a_name(name) -> None:
    """Rows and figures show it."""
    with (
        pytest.raises(SchemeError, match=r"a stage's name is .*; a text on one line is expected"),
        StageClock().stage(name),
    ):
        pass
