"""Which device the arithmetic of a comparison runs on, and what is said where it is another."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from megasim.compare import devices
from megasim.compare.devices import ComparisonSize, choose_devices
from megasim.errors import UsageError

LARGE = ComparisonSize(elements=10**11, models=100, pairs=4950, workers=16)
SMALL = ComparisonSize(elements=10**9, models=2, pairs=1, workers=2)


def test_nothing_is_said_where_no_card_is_and_none_was_asked_for(monkeypatch, caplog) -> None:
    monkeypatch.setattr(devices, "_DRIVER", Path("/there/is/none"))
    assert choose_devices(None, LARGE) == choose_devices("auto", LARGE) == ()
    assert choose_devices("cpu", LARGE) == ()
    assert not caplog.records


def test_a_small_job_does_not_look_for_a_card(monkeypatch, caplog) -> None:
    monkeypatch.setattr(devices, "_DRIVER", Path("/"))
    monkeypatch.setattr(devices, "_usable_cards", lambda *_: pytest.fail("looked for a card"))
    assert choose_devices("auto", SMALL) == ()
    assert not caplog.records


def test_a_large_job_takes_all_cards_that_there_are(monkeypatch) -> None:
    monkeypatch.setattr(devices, "_DRIVER", Path("/"))
    monkeypatch.setattr(devices, "find_spec", lambda _: object())
    monkeypatch.setattr(devices, "_usable_cards", lambda *_: (("cuda:0", "cuda:1"), ""))
    assert choose_devices("auto", LARGE) == ("cuda:0", "cuda:1")


def test_a_card_that_is_not_there_is_one_sentence(monkeypatch, caplog) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert choose_devices("cuda", LARGE) == ()
    (said,) = caplog.messages
    assert said == "torch finds no card for CUDA: the CPU does the arithmetic"


def test_without_triton_the_cpu_does_it(monkeypatch, caplog) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    assert choose_devices("cuda", LARGE) == ()
    assert "Triton" in caplog.text


def test_a_card_without_room_is_left_alone(monkeypatch, caplog) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10**9, 10**11))
    monkeypatch.setattr(devices, "find_spec", lambda _: object())
    assert choose_devices("cuda:0", LARGE) == ()
    assert "cuda:0 has 1.0 GB free, and 4.3 GB are needed" in caplog.text


def test_a_card_asked_for_by_name_and_slower_is_said(monkeypatch, caplog) -> None:
    monkeypatch.setattr(devices, "_usable_cards", lambda *_: (("cuda:0",), ""))
    assert choose_devices("cuda", SMALL) == ("cuda:0",)
    assert "expected to be slower than the CPU" in caplog.text


def test_another_device_is_refused() -> None:
    with pytest.raises(UsageError, match="no device 'nonsense'"):
        choose_devices("nonsense", SMALL)
