"""Tests of series told by the number in names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megasim.geometry.chains import LEAST_MODELS, find_chains


def test_epochs_come_before_longer_series_of_versions() -> None:
    names = ["mk0", "mk3", "mk5", "mk10", "model-ep2", "model-ep10", "model-ep1", "sd14"]
    found = find_chains(names)
    assert [chain.models for chain in found] == [
        ("model-ep1", "model-ep2", "model-ep10"),
        ("mk0", "mk3", "mk5", "mk10"),
    ]
    assert [chain.is_run for chain in found] == [True, False]


def test_two_numbers_that_change_together_are_no_series() -> None:
    assert find_chains(["0.4(a) + 0.6(b)", "0.3(a) + 0.7(b)", "0.2(a) + 0.8(b)"]) == []


def test_a_number_stands_once_in_a_series() -> None:
    (chain,) = find_chains(["e1", "e01", "e2", "e3"])
    assert chain.models == ("e01", "e2", "e3")


@given(st.lists(st.text(st.sampled_from("ab-0123456789"), max_size=12), max_size=20))
def test_series_are_made_of_the_names_each_once(names: list[str]) -> None:
    for chain in find_chains(names):
        assert set(chain.models) <= set(names)
        assert len(set(chain.models)) == len(chain.models) >= LEAST_MODELS
        assert chain.label.count("#") == 1
