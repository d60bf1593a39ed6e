"""Text that comes token by token is the text that comes at once, and no character is ever split."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tributary.text import load_tokenizer
from tributary.text.detokenizer import REPLACEMENT, WindowDetokenizer
from tributary.text.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer

SMOLLM2 = Path(__file__).resolve().parents[4] / "models" / "smollm2"
WORDS = ["river", " tributary", "naïve", " Straße", "日本語", " 🙂", "👩‍👩‍👧", "é", " \n", "\t", "  ", "0", "العربية",
         "\u0301", "ﬁ", "\x00", "�", "<|end|>", "▁"]
TRAINED_ON = ["river tributary naïve Straße 日本語 the and of in to", "a river of words and more words in the sea"] * 4


def random_text(rng: random.Random, length: int) -> str:
    def one() -> str:
        if rng.random() < 0.5:
            return rng.choice(WORDS)
        code = rng.choice((rng.randrange(0x20, 0x7f), rng.randrange(0x80, 0xd800), rng.randrange(0xe000, 0x110000)))
        return chr(code)

    return "".join(one() for _ in range(length))


def train(tokenizer: tokenizers.Tokenizer, trainer: object, folder: Path) -> JsonTokenizer:
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(folder)
    assert isinstance(loaded, JsonTokenizer)
    return loaded


def byte_level(folder: Path) -> JsonTokenizer:
    """As GPT-2, Llama 3, Qwen and SmolLM2."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|end|>"], show_progress=False,
                                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet()), folder)


def byte_fallback(folder: Path) -> JsonTokenizer:
    """As Llama 2 and Mistral: blanks are ▁, what is no piece is bytes, one leading blank goes."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    loaded = train(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False), folder)
    # The trainer makes byte pieces special; in real models they are ordinary ones.
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    description["added_tokens"] = [token for token in description["added_tokens"] if token["id"] < 2]
    path.write_text(json.dumps(description))
    del loaded
    return JsonTokenizer(path)


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> str:
    detokenizer = tokenizer.detokenizer()
    parts = [detokenizer.add(token) for token in tokens]
    return "".join(parts) + detokenizer.flush()


@pytest.mark.parametrize("seed", range(20))
def test_byte_level_of_any_text_and_of_any_tokens(tmp_path: Path, seed: int) -> None:
    tokenizer = byte_level(tmp_path)
    rng = random.Random(seed)
    tokens = tokenizer.encode(random_text(rng, 60), add_special_tokens=False)
    assert streamed(tokenizer, tokens) == tokenizer.decode(tokens)
    # A model may say anything, broken characters among it.
    tokens = [rng.randrange(tokenizer.vocab_size) for _ in range(200)]
    assert streamed(tokenizer, tokens) == tokenizer.decode(tokens)


@pytest.mark.parametrize("seed", range(20))
def test_byte_fallback_of_any_text(tmp_path: Path, seed: int) -> None:
    tokenizer = byte_fallback(tmp_path)
    text = random_text(random.Random(seed), 60).replace("▁", "_")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    # As an answer, which goes on behind a prompt, it has the blank that the encoder put in front.
    assert streamed(tokenizer, tokens).removeprefix(" ") == tokenizer.decode(tokens)


def test_a_leading_blank_of_an_answer_is_text(tmp_path: Path) -> None:
    tokenizer = byte_fallback(tmp_path)
    prompt = tokenizer.encode("a river", add_special_tokens=False)
    both = tokenizer.encode("a river of words", add_special_tokens=False)
    assert both[:len(prompt)] == prompt
    assert streamed(tokenizer, both[len(prompt):]) == " of words"


def test_a_character_comes_with_its_last_byte() -> None:
    detokenizer = ByteTokenizer().detokenizer()
    assert [detokenizer.add(byte) for byte in "a🙂é".encode()] == ["a", "", "", "", "🙂", "", "é"]
    assert detokenizer.flush() == ""
    assert [detokenizer.add(byte) for byte in (0xf0, 0x9f, ord("b"))] == ["", "", REPLACEMENT + "b"]
    assert detokenizer.add(0xe2) == "" and detokenizer.flush() == REPLACEMENT


def test_special_tokens_are_no_text(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    end = tokenizer.token_id("<|end|>")
    assert end is not None and tokenizer.token_bytes(end) == b"<|end|>"
    tokens = tokenizer.encode("a<|end|>b", add_special_tokens=False)
    assert end in tokens and streamed(tokenizer, tokens) == "ab"
    assert tokenizer.token_bytes(tokenizer.vocab_size + 5) == b"" and tokenizer.token_id("<none>") is None


@pytest.mark.parametrize("seed", range(10))
def test_the_window_gives_the_text_of_other_decoders(seed: int) -> None:
    """Against a decoder that joins words by blanks, and one of bytes, whose characters are cut."""
    rng = random.Random(seed)
    words = ["one", "two", "##s", "three"]

    def decode_words(tokens: object) -> str:
        return " ".join(words[token] for token in tokens).replace(" ##", "")  # type: ignore[attr-defined]

    tokens = [rng.randrange(4) for _ in range(50)]
    window = WindowDetokenizer(decode_words, lambda token: False)
    assert "".join(map(window.add, tokens)) + window.flush() == decode_words(tokens)

    def decode_bytes(tokens: object) -> str:
        return bytes(tokens).decode(errors="replace")  # type: ignore[call-overload]

    text = random_text(rng, 50)
    window = WindowDetokenizer(decode_bytes, lambda token: token == 0)
    parts = [window.add(byte) for byte in text.encode()]
    assert "".join(parts) + window.flush() == text.replace("\x00", "")
    assert all(part in text for part in parts)


def test_the_window_does_not_wait_for_ever() -> None:
    window = WindowDetokenizer(lambda tokens: bytes(tokens).decode(errors="replace"), lambda token: False)
    parts = [window.add(0xff) for _ in range(100)]
    assert "".join(parts) + window.flush() == REPLACEMENT * 100
    assert len(window._window) <= 2 * WindowDetokenizer.MAX_HELD_TOKENS  # noqa: SLF001 - it must not grow


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="./dev model smollm2 makes the model")
@pytest.mark.parametrize("seed", range(10))
def test_smollm2(seed: int) -> None:
    tokenizer = load_tokenizer(SMOLLM2)
    rng = random.Random(seed)
    text = random_text(rng, 100)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(tokenizer, tokens) == tokenizer.decode(tokens)  # some bytes have no token: not always the text
    tokens = [rng.randrange(tokenizer.vocab_size) for _ in range(300)]
    assert streamed(tokenizer, tokens) == tokenizer.decode(tokens)
