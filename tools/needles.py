"""Needles: facts hidden in a long text, and the questions that ask for them back.

One needle is one sentence, "The secret code of amber falcon is 731942.", planted somewhere in a text (the
haystack). A question repeats the sentence up to the code; a model that can look the fact up continues with the six
digits and the full stop. The wording exists once, here: training, evaluation and the golden files must agree on every
byte of it.

Only the standard library is used, so that any test may import this file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

ADJECTIVES = (
    "amber ancient arctic azure bitter blazing bold brave bright bronze calm clever copper coral cosmic crimson "
    "crystal curious daring dark distant dusty eager early emerald faint fancy fierce flying frozen gentle giant "
    "gilded golden grand granite green happy hidden hollow honest humble icy idle indigo iron ivory jade jolly "
    "keen lazy little lonely loud lucky lunar marble mellow mighty misty modest noble olive orange pale patient "
    "polar proud purple quick quiet rapid rare royal ruby rusty sacred scarlet secret shy silent silver sleepy "
    "smoky snowy solar steady stormy sunny swift tame tidy tiny velvet violet wandering warm white wild wise "
    "yellow young"
).split()

NOUNS = (
    "anchor antelope arrow badger bear beaver bison bridge buffalo camel candle canyon castle cedar cheetah cobra "
    "compass condor cougar coyote crane cricket dolphin dragon eagle ember falcon ferret finch forest fox gazelle "
    "glacier goose hammer harbor hare hawk hedgehog heron hornet horse island jackal jaguar kestrel kettle koala "
    "lantern leopard lion lizard llama lobster lynx magpie mammoth marten meadow mirror moose mountain newt "
    "ocelot octopus orchid otter owl panda panther parrot pelican penguin pigeon piper planet prairie puffin "
    "python rabbit raven river robin salmon shark sparrow spider squirrel stallion stork swan thunder tiger "
    "toucan tower turtle viper walrus whale willow wolf wombat zebra"
).split()

CODE_DIGITS = 6


@dataclass(frozen=True)
class Needle:
    """A name and its code."""

    name: str
    code: str

    @property
    def stem(self) -> bytes:
        """The sentence up to the code, with the trailing blank: what a question ends with."""
        return f"The secret code of {self.name} is ".encode()

    @property
    def answer(self) -> bytes:
        """What must follow the stem."""
        return f"{self.code}.".encode()

    @property
    def sentence(self) -> bytes:
        return self.stem + self.answer

    @property
    def question(self) -> bytes:
        """Appended to a haystack; the model must continue with `answer`."""
        return b"\n" + self.stem


def draw_code(rng: random.Random) -> str:
    return "".join(rng.choices("0123456789", k=CODE_DIGITS))


def draw_needles(count: int, rng: random.Random) -> list[Needle]:
    """`count` needles with distinct names. Names may share one word: the model must then match both words."""
    picks = rng.sample(range(len(ADJECTIVES) * len(NOUNS)), count)
    names = [f"{ADJECTIVES[p // len(NOUNS)]} {NOUNS[p % len(NOUNS)]}" for p in picks]
    return [Needle(name, draw_code(rng)) for name in names]


def spread_depths(count: int, rng: random.Random) -> list[float]:
    """`count` depths in [0, 1), ascending: one in each of `count` equal stretches, anywhere within it."""
    return [(i + rng.random()) / count for i in range(count)]


def _snap_to_gap(text: bytes, offset: int) -> int:
    """The offset just behind the first blank or line end at or after `offset`; `offset` when there is none near."""
    near = text[offset : offset + 64]
    for i, byte in enumerate(near):
        if byte in b" \n":
            return offset + i + 1
    return offset


def plant(text: bytes, needles: list[Needle], depths: list[float], separator: bytes = b"\n") -> bytes:
    """`text` with the needles' sentences put in at ascending `depths` (shares of the text), between separators."""
    assert len(needles) == len(depths), f"{len(needles)} needles but {len(depths)} depths"
    parts: list[bytes] = []
    last = 0
    for needle, depth in zip(needles, depths):
        at = max(last, _snap_to_gap(text, int(depth * len(text))))
        parts += [text[last:at].rstrip(b" \n"), separator, needle.sentence, separator]
        last = at
    return b"".join(parts) + text[last:]


def build_haystack(
    text: bytes, needles: list[Needle], length: int, rng: random.Random, separator: bytes = b"\n"
) -> bytes:
    """Exactly `length` bytes: `text` from its beginning with the needles spread over it. `text` must be long enough."""
    room = length - sum(len(n.sentence) + 2 * len(separator) for n in needles)
    assert 0 < room <= len(text) - 128, f"{length} bytes with {len(needles)} needles do not fit a text of {len(text)}"
    # Planting eats the blanks around each gap, so a little more text goes in and the end is cut to size. The needles
    # keep off the end (64 bytes are what a snap to a gap can add), so that the cut never meets one.
    spare = 128
    scale = max(0, room - 64) / (room + spare)
    planted = plant(text[: room + spare], needles, [scale * d for d in spread_depths(len(needles), rng)], separator)
    cut = planted[:length]
    assert len(cut) == length and all(n.sentence in cut for n in needles), "a needle was cut off"
    return cut


def read_licence_texts(folder: Path) -> bytes:
    """Licence texts (as Debian ships them in /usr/share/common-licenses) in one string, in the order of their names."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and not f.is_symlink()]
    if not files:
        raise SystemExit(f"no licence text in {folder}: name a folder of plain text files")
    return b"\n\n".join(f.read_bytes() for f in files)
