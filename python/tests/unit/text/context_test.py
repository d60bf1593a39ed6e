"""How long a context may be: as the engine says it of the same config.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tributary.text.context import FAMILY_CONTEXTS, MAX_CONTEXT_TOKENS, max_context_tokens

ROOT = Path(__file__).resolve().parents[4]
GOLDEN = sorted((ROOT / "tests" / "golden" / "models").glob("*/config.json"))


@pytest.mark.parametrize("path", GOLDEN, ids=[path.parent.name for path in GOLDEN])
def test_golden_models(path: Path) -> None:
    """All kinds of RoPE are among them: default, linear, dynamic (64 positions, factor 4), llama3, yarn, longrope."""
    assert max_context_tokens(json.loads(path.read_text())) == (256 if path.parent.name == "dynamic" else 2048)


DYNAMIC = {"rope_type": "dynamic", "factor": 2.5}
YARN = {"rope_type": "yarn", "factor": 4}


@pytest.mark.parametrize("config, expected", [
    ({}, 100), ({"rope_scaling": None}, 100), ({"rope_scaling": DYNAMIC}, 250), ({"rope_parameters": DYNAMIC}, 250),
    ({"rope_scaling": {"type": "dynamic", "factor": 1.234}}, 123),
    ({"rope_scaling": {"type": "yarn", **DYNAMIC}}, 250), ({"rope_scaling": YARN, "rope_parameters": DYNAMIC}, 100),
    ({"rope_scaling": {}, "rope_parameters": DYNAMIC}, 250),
    ({"rope_parameters": {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default"}}}, 250),
    ({"rope_scaling": {**DYNAMIC, "factor": 1e12}}, MAX_CONTEXT_TOKENS), ({"rope_scaling": "dynamic"}, 100),
])
def test_dynamic_rope_makes_it_longer(config: dict[str, object], expected: int) -> None:
    assert max_context_tokens({"max_position_embeddings": 100, **config}) == expected


def test_a_config_that_does_not_say() -> None:
    assert max_context_tokens({}) is None and max_context_tokens({"model_type": "none"}) is None
    assert max_context_tokens({"max_position_embeddings": True}) is None
    assert max_context_tokens({"model_type": "phi3", "rope_scaling": DYNAMIC}) == 10240


def test_families_are_the_engines() -> None:
    rows = (ROOT / "model" / "model_families.cc").read_text().split("{.model_type = ")[1:]
    default = re.search(r"max_position_embeddings = (\d+);", (ROOT / "model" / "model_families.h").read_text())
    assert default is not None
    known = {row.split('"')[1]: int((re.search(r"\.max_position_embeddings = (\d+)", row) or default)[1])
             for row in rows}
    assert known == FAMILY_CONTEXTS
    limit = re.search(r"kMaxContextTokens = uint64_t\{1\} << (\d+)", (ROOT / "base" / "limits.h").read_text())
    assert limit is not None and 1 << int(limit[1]) == MAX_CONTEXT_TOKENS
