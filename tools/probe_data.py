"""The training mixture of the probe model: rows of bytes, each byte with its weight in the loss.

Four kinds of row, drawn at random:
- facts: text with needles strewn in; some are said again further on, and all of them in a list at the end;
- echoes: text in which earlier spans return word for word, which is what teaches a small model to look back;
- records: meaningless strings in lists, returning in another order (nothing but copying helps there);
- prose: text as it is.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from needles import CODE_DIGITS, Needle, draw_code, draw_needles

# Weight classes, as stored per byte; what each counts in the loss is LOSS_WEIGHTS, by class.
UNKNOWABLE, TEXT, RECALLED = 0, 1, 2
# A code that is said for the first time is noise and nothing to learn; a code that is said again is the lesson.
LOSS_WEIGHTS = (0.0, 1.0, 5.0)

HELD_OUT_SHARE = 0.02
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def split_novels(folder: Path) -> tuple[list[bytes], bytes]:
    """The training part of every novel, and the held-out last 2 % of all of them in one string."""
    novels = [f.read_bytes() for f in sorted(folder.glob("*.txt"))]
    if not novels:
        raise SystemExit(f"no *.txt in {folder}: name a folder of plain ASCII novels")
    cuts = [int(len(n) * (1 - HELD_OUT_SHARE)) for n in novels]
    return [n[:c] for n, c in zip(novels, cuts)], b"\n".join(n[c:] for n, c in zip(novels, cuts))


@dataclass
class Row:
    """A row under construction: bytes and, for each, its weight class."""

    data: bytearray = field(default_factory=bytearray)
    classes: bytearray = field(default_factory=bytearray)

    def add(self, piece: bytes, weight_class: int = TEXT) -> None:
        self.data += piece
        self.classes += bytes([weight_class]) * len(piece)

    def add_needle(self, needle: Needle, weight_class: int) -> None:
        self.add(needle.stem)
        self.add(needle.answer[:CODE_DIGITS], weight_class)
        self.add(needle.answer[CODE_DIGITS:])


class TextSource:
    """Random spans of the novels, roughened so that the model does not depend on the look of a novel's page."""

    def __init__(self, novels: list[bytes], rng: random.Random) -> None:
        self.novels = novels
        self.rng = rng
        self.sizes = [len(n) for n in novels]

    def plain(self, length: int) -> bytes:
        novel = self.rng.choices(self.novels, self.sizes)[0]
        start = self.rng.randrange(len(novel) - length)
        return novel[start : start + length]

    def span(self, length: int) -> bytes:
        text = self.plain(length)
        if self.rng.random() < 0.5:
            return text
        return (self._roughen(text) + self.plain(length))[:length]

    def word(self) -> str:
        """A lower-case word out of a novel, for names that no list holds."""
        while True:
            found = re.findall(rb"\b[a-z]{3,9}\b", self.plain(100))
            if found:
                return self.rng.choice(found).decode()

    def _roughen(self, text: bytes) -> bytes:
        """Pages as licences, manuals and logs have them: short lines, indents, capitals, rules, numbers, repeats."""
        rng = self.rng
        width = rng.randint(36, 78)
        indent = b" " * rng.choice((0, 0, 0, 1, 2, 3, 4, 6, 8)) or rng.choice((b"", b"", b"\t"))
        lines = re.sub(rb"(.{%d,%d}) " % (width // 2, width), rb"\1\n", text).split(b"\n")
        noise = rng.choice((0.0, 0.02, 0.1))
        rule = rng.choice(b"-=*_").to_bytes(1, "little") * rng.randint(10, width)
        out: list[bytes] = []
        for line in lines:
            line = indent + line
            if rng.random() < noise:
                line = self._odd_line(line, rule, width)
            out.append(line)
        rough = b"\n".join(out)
        return rough.upper() if rng.random() < 0.06 else rough

    def _odd_line(self, line: bytes, rule: bytes, width: int) -> bytes:
        rng = self.rng
        kind = rng.randrange(8)
        if kind == 0:
            return line.upper()
        if kind == 1:
            return line + b"\n" + line
        if kind == 2:
            return b"\n" + rule + b"\n" + line
        if kind == 3:
            return b"\n" + line.strip().center(width) + b"\n"
        if kind == 4:
            return b"\n%d.%d. " % (rng.randint(1, 20), rng.randint(0, 9)) + line.strip()
        if kind == 5:
            return b"\n  (%c) " % rng.choice(b"abcdefghij") + line.strip()
        if kind == 6:
            return line + b" " + draw_code(rng)[: rng.randint(1, 6)].encode()
        return b"\n" + line


class Mixture:
    """Draws rows of the four kinds. One per worker process, each with its own seed."""

    def __init__(self, novels: list[bytes], seed: int) -> None:
        self.rng = random.Random(seed)
        self.text = TextSource(novels, self.rng)

    def batch(self, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Bytes [rows, length + 1] and the weight classes of the last `length` of each row, both uint8."""
        made = [self._row(length + 1) for _ in range(rows)]
        data = np.frombuffer(b"".join(bytes(r.data) for r in made), np.uint8).reshape(rows, length + 1)
        classes = np.frombuffer(b"".join(bytes(r.classes) for r in made), np.uint8).reshape(rows, length + 1)
        return data.copy(), classes[:, 1:].copy()

    def _row(self, length: int) -> Row:
        makers = (self._facts, self._echoes, self._records, self._prose)
        row = self.rng.choices(makers, (0.66, 0.12, 0.10, 0.12))[0](length)
        assert len(row.data) >= length and len(row.data) == len(row.classes), f"short row: {len(row.data)} of {length}"
        row.data, row.classes = row.data[:length], row.classes[:length]
        return row

    def _needles(self, count: int) -> list[Needle]:
        """Needles with names from the lists; in every fourth row with any words, so that no list has to be known."""
        needles = draw_needles(count, self.rng)
        if self.rng.random() < 0.75:
            return needles
        odd = [Needle(f"{self.text.word()} {self.text.word()}", n.code) for n in needles]
        return list({n.name: n for n in odd}.values())  # two of one name would be a riddle

    def _separator(self) -> bytes:
        return self.rng.choices((b"\n", b" ", b"\n\n", b""), (50, 35, 10, 5))[0]

    def _facts(self, length: int) -> Row:
        """Needles spread over a text, a few said again on the way, and all said again at the end, in any order."""
        rng = self.rng
        most = min(48, length // 100)
        count = rng.randint(1, most) if rng.random() < 0.7 else min(most, rng.randint(1, 8))
        needles = self._needles(count)
        recalls = self._recall_list(needles)
        body = max(length - len(recalls.data), 0)
        again = rng.choices(needles, k=rng.randint(0, count)) if rng.random() < 0.3 else []
        cost = max(len(n.sentence) for n in needles) + 4  # with two of the longest separators
        mentions = needles + again[: max(0, body // cost - count)]
        # A random order of first and repeated mentions: whichever comes first is the unknowable one.
        rng.shuffle(mentions)
        room = max(body - cost * len(mentions), len(mentions))
        cuts = sorted(rng.randrange(room) for _ in mentions)
        text = self.text.span(room)
        row, last, said = Row(), 0, set()
        for needle, cut in zip(mentions, cuts):
            row.add(text[last:cut] + self._separator())
            row.add_needle(needle, RECALLED if needle.name in said else UNKNOWABLE)
            row.add(self._separator())
            said.add(needle.name)
            last = cut
        row.add(text[last:])
        # The list must come last and whole, so what is too much goes from the row's beginning (a needle lost there is
        # rare, and a question without an answer does no harm).
        over = len(row.data) + len(recalls.data) - length
        if over > 0:
            del row.data[:over], row.classes[:over]
        elif over < 0:
            row.add(self.text.plain(-over))
        row.data += recalls.data
        row.classes += recalls.classes
        return row

    def _recall_list(self, needles: list[Needle]) -> Row:
        """Every needle said again, one a line, now and then with text in between."""
        rng, row = self.rng, Row()
        chatty = rng.random() < 0.2
        for needle in rng.sample(needles, len(needles)):
            row.add(rng.choices((b"\n", b"\n\n", b" "), (80, 10, 10))[0])
            row.add_needle(needle, RECALLED)
            if chatty and rng.random() < 0.3:
                row.add(self._separator() + self.text.span(rng.randint(10, 120)))
        return row

    def _echoes(self, length: int) -> Row:
        """Text in which a tenth to a third comes from further up, word for word."""
        rng = self.rng
        data = bytearray(self.text.span(max(length // 4, 200)))
        while len(data) < length:
            size = rng.randint(30, 300)
            start = rng.randrange(max(len(data) - size, 1))
            data += self._separator() + data[start : start + size] + self._separator()
            data += self.text.span(rng.randint(50, 100 + min(length // 8, 1200)))
        row = Row()
        row.add(bytes(data))
        return row

    def _records(self, length: int) -> Row:
        """Random "key: value" lines within text; each line returns, in another order."""
        rng, row = self.rng, Row()
        while len(row.data) < length:
            lines = []
            for _ in range(rng.randint(2, 12)):
                key = "".join(rng.choices(LETTERS, k=rng.randint(3, 8)))
                value = "".join(rng.choices(LETTERS + "0123456789", k=rng.randint(4, 12)))
                lines.append(f"{key}{rng.choice((': ', ' = ', ' is '))}{value}\n".encode())
            for line in lines:
                row.add(line, UNKNOWABLE)
            row.add(self.text.span(rng.randint(0, min(length // 2, 6000))) + b"\n")
            for line in rng.sample(lines, len(lines)):
                row.add(line)
        return row

    def _prose(self, length: int) -> Row:
        row = Row()
        row.add(self.text.span(length))
        return row
