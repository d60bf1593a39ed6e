"""lm-eval's local-completions on a small task: it finds best what the log-probabilities of echoes say is best.

Its tokenizer is a folder made here, whose tokens are bytes, as the probe model's are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from conftest import Served

QUESTIONS = [("the river is", [" wide", " q#q", " zzz"]), ("one two", [" three", " xq", " 77"]), ("a", [" b", " Q"])]
TASK = """task: rivers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{best}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


def byte_tokenizer(folder: Path) -> None:
    """Byte i is token i, in the alphabet of byte-level BPE."""
    tokenizers = pytest.importorskip("tokenizers")
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE({letters[byte]: byte for byte in range(256)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def scored_best(served: Served, text: str, choices: list[str]) -> int:
    """What lm-eval should find, by OpenAI's client."""
    client = openai.OpenAI(base_url=served.base_url, api_key=served.key)
    sums = []
    for choice in choices:
        answer = client.completions.create(model=served.model, prompt=text + choice, echo=True, logprobs=0,
                                           max_tokens=0)
        sums.append(sum(answer.choices[0].logprobs.token_logprobs[len(text):]))
    return sums.index(max(sums))


def test_a_small_task(served: Served, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    byte_tokenizer(tmp_path / "bytes")
    rows = [{"text": text, "choices": choices, "best": scored_best(served, text, choices)}
            for text, choices in QUESTIONS]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rivers.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    arguments = (f"model={served.model},base_url={served.base_url}/completions,tokenizer={tmp_path / 'bytes'},"
                 "tokenizer_backend=huggingface,num_concurrent=2,max_retries=1,max_length=1024")
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments,
         "--tasks", "rivers", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"),
         "--batch_size", "2"],
        env={**os.environ, "OPENAI_API_KEY": served.key, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    assert results["results"]["rivers"]["acc,none"] == 1.0
