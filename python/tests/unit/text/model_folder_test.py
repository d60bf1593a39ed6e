"""Model folders: which tokenizer, which ends, which defaults; and broken ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tributary.text import ModelFolderError, SamplingDefaults, load_model_text, load_tokenizer
from tributary.text.tokenizer import ByteTokenizer

PROBE = Path(__file__).resolve().parents[4] / "models" / "probe"
SMOLLM2 = PROBE.parent / "smollm2"


def byte_folder(folder: Path, **files: object) -> Path:
    for name, value in {"config": {"vocab_size": 256}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def test_the_probe_model_has_bytes() -> None:
    text = load_model_text(PROBE)
    assert isinstance(text.tokenizer, ByteTokenizer)
    assert (text.name, text.max_context_tokens, text.chat_template, text.end_tokens) == (
        "probe", 65536, None, frozenset())
    assert text.tokenizer.encode("é", add_special_tokens=True) == [0xc3, 0xa9]
    assert text.tokenizer.decode([0xc3, 0xa9, 0xff]) == "é\ufffd"


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="./dev model smollm2 makes the model")
def test_smollm2_has_a_vocabulary_and_a_template() -> None:
    text = load_model_text(SMOLLM2)
    assert (text.tokenizer.vocab_size, text.max_context_tokens, text.end_tokens) == (49152, 8192, {2})
    assert text.chat_template is not None
    prompt = text.chat_template.render([{"role": "user", "content": "Hi"}])
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert text.tokenizer.encode(prompt, add_special_tokens=False)[:2] == [1, 9690]


def test_ends_and_defaults(tmp_path: Path) -> None:
    folder = byte_folder(tmp_path, config={"vocab_size": 256, "eos_token_id": 1},
                         generation_config={"eos_token_id": [2, 3], "temperature": 0.5, "top_k": 40, "top_p": 0.9,
                                            "repetition_penalty": 1.1, "max_new_tokens": 77})
    text = load_model_text(folder)
    assert text.end_tokens == {1, 2, 3}
    assert text.sampling == SamplingDefaults(temperature=0.5, top_p=0.9, top_k=40, repetition_penalty=1.1,
                                             max_new_tokens=77)


def test_do_sample_false_is_greedy(tmp_path: Path) -> None:
    """As Transformers means it: a temperature beside it is not used. What says nothing is no False."""
    for file, expected in (({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, 0.0),
                           ({"do_sample": True, "temperature": 0.6}, 0.6), ({"temperature": 0.6}, 0.6), ({}, None)):
        assert load_model_text(byte_folder(tmp_path, generation_config=file)).sampling.temperature == expected


def test_what_the_sampler_lacks_is_told(tmp_path: Path) -> None:
    folder = byte_folder(tmp_path, generation_config={"num_beams": 4, "typical_p": 1.0, "suppress_tokens": [7]})
    assert load_model_text(folder).sampling.not_served == {"num_beams": 4, "suppress_tokens": [7]}


@pytest.mark.parametrize("files, what", [
    ({"config": {"vocab_size": 256, "eos_token_id": "two"}}, "config.json: eos_token_id is 'two'"),
    ({"generation_config": {"temperature": "hot"}}, "generation_config.json: temperature is 'hot'"),
    ({"generation_config": {"top_p": -1}}, "top_p is -1"),
    ({"generation_config": {"repetition_penalty": 0.009}}, "repetition_penalty is 0.009; it must be from 0.01 to 100"),
    ({"generation_config": {"min_p": 1.5}}, "min_p is 1.5; it must be from 0 to 1"),
    ({"generation_config": {"max_new_tokens": 0}}, "max_new_tokens is 0; it must be a whole number from 1 on"),
    ({"generation_config": {"max_new_tokens": 2.5}}, "max_new_tokens is 2.5"),
    ({"generation_config": []}, "holds a list"),
    ({"config": {"vocab_size": 1000}}, "neither tokenizer.json nor tokenizer.model"),
    ({"tokenizer": {"version": "1.0"}}, "tokenizer.json is no tokenizer"),
])
def test_broken_folders(tmp_path: Path, files: dict[str, object], what: str) -> None:
    with pytest.raises(ModelFolderError, match=what):
        load_model_text(byte_folder(tmp_path, **files))


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for content, what in ((b"{", "is not JSON"), (b"\xff{}", "not UTF-8 at byte 0"),
                          (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull")):
        path.write_bytes(content)
        with pytest.raises(ModelFolderError, match=what):
            load_tokenizer(tmp_path)
    with pytest.raises(ModelFolderError, match="is not a folder"):
        load_tokenizer(tmp_path / "absent")


@pytest.fixture
def sentencepiece_folder(tmp_path: Path) -> Path:
    spm = pytest.importorskip("sentencepiece")
    lines = ["a river of words", "the sea and the river", "words of the sea"] * 9
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"), model_prefix=str(tmp_path / "tokenizer"), vocab_size=300, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"add_bos_token": True, "eos_token": "</s>", "added_tokens_decoder": {"300": {"content": "<|im_end|>"}}}))
    return tmp_path


@pytest.mark.parametrize("seed", range(10))
def test_a_sentencepiece_model(sentencepiece_folder: Path, seed: int) -> None:
    tokenizer = load_tokenizer(sentencepiece_folder)
    rng = random.Random(seed)
    text = "".join(chr(rng.choice((rng.randrange(0x21, 0x7f), rng.randrange(0x80, 0x2500), 0x1f642, 32)))
                   for _ in range(60)).replace("▁", "_").strip()
    tokens = tokenizer.encode(text, add_special_tokens=True)
    assert tokens[0] == 1 and tokenizer.decode(tokens) == text
    detokenizer = tokenizer.detokenizer()
    assert "".join(map(detokenizer.add, tokens)) + detokenizer.flush() == " " + text


def test_added_tokens_of_a_sentencepiece_model(sentencepiece_folder: Path) -> None:
    text = load_model_text(sentencepiece_folder)
    tokens = text.tokenizer.encode("river<|im_end|>sea", add_special_tokens=False)
    assert tokens.count(300) == 1 and text.tokenizer.vocab_size == 301
    assert text.tokenizer.decode(tokens).split() == ["river", "sea"]
    assert text.tokenizer.token_id("</s>") == 2 and text.end_tokens == {2}
    assert text.tokenizer.token_id("<|none|>") is None
    (sentencepiece_folder / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(ModelFolderError, match="no SentencePiece model"):
        load_tokenizer(sentencepiece_folder)
