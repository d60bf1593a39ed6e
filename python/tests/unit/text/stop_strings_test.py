"""Stop strings are found wherever the text is cut, and what is given out is all that stands before."""

from __future__ import annotations

import random

import pytest

from tributary.text import StopStrings


def plain(text: str, stops: list[str]) -> tuple[str, bool]:
    """What the slow way says."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[:end - max(map(len, complete))], True
    return text, False


def in_parts(text: str, stops: list[str], sizes: list[int]) -> tuple[str, bool]:
    finder, out, begin = StopStrings(stops), "", 0
    for size in sizes:
        out += finder.add(text[begin:begin + size])
        begin += size
        if finder.found is not None:
            return out, True
    return out + finder.flush(), False


@pytest.mark.parametrize("seed", range(300))
def test_any_text_in_any_parts(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choice("abc") for _ in range(rng.randint(0, 40)))
    stops = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 4))]
    sizes = []
    while sum(sizes) < len(text):
        sizes.append(rng.randint(1, 5))
    found_early, stopped = in_parts(text, stops, sizes)
    expected, expected_stopped = plain(text, stops)
    assert stopped == expected_stopped
    assert found_early == expected


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    finder = StopStrings(["END"])
    assert finder.add("the E") == "the "
    assert finder.add("N") == ""
    assert finder.add("C") == "ENC"
    assert finder.add("xEN") == "x"
    assert finder.flush() == "EN"
    assert finder.found is None


def test_nothing_comes_after_a_stop_string() -> None:
    finder = StopStrings(["\n\n"])
    assert finder.add("a\n") == "a"
    assert finder.add("\nb") == "" and finder.found == "\n\n"
    assert finder.add("c") == ""


def test_without_stop_strings_nothing_is_held() -> None:
    assert StopStrings([]).add("abc") == "abc"
