"""Stop strings in text that comes in parts: they are found across the borders of parts, and never given out.

The one that is complete first ends the text, of several at the same place the longest: so it does not matter how the
text is cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Of one answer. Holds back the end of the text as long as it may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        """None of them empty."""
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text; add() returns nothing from then on

    def add(self, text: str) -> str:
        """What is certain to stand before any stop string."""
        if self.found is not None or not text:
            return ""
        if not self._stops:
            return text
        whole = self._held + text
        begins = [(whole.find(stop), stop) for stop in self._stops if stop in whole]
        if begins:
            _, begin, self.found = min((begin + len(stop), begin, stop) for begin, stop in begins)
            self._held = ""
            return whole[:begin]
        num_held = max(self._overlap(whole, stop) for stop in self._stops)
        self._held = whole[len(whole) - num_held:]
        return whole[:len(whole) - num_held]

    def flush(self) -> str:
        """At the end of the answer: what was held back."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The longest end of the text that a stop string begins with."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                return length
        return 0
