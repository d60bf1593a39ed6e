"""What `tributary` asks of the bridge, with tokenizers that are trained here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from detokenizer_test import WORDS, byte_fallback, byte_level

from tributary.text import ModelFolderError, load_model_text
from tributary.text.bridge import Bridge, chat_frame, serve
from tributary.text.chat_template import ChatTemplate

TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}")


def folder_with(folder: Path, template: str | None = TEMPLATE) -> Path:
    byte_level(folder)
    config = {"eos_token": "<|end|>"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def bridge_of(folder: Path, *, with_frame: bool = False) -> Bridge:
    return Bridge(load_model_text(folder), with_frame=with_frame)


def ask(folder: Path, *requests: dict[str, Any], with_frame: bool = False) -> list[dict[str, Any]]:
    """The answers of a process that is asked so, behind its greeting."""
    out = io.StringIO()
    serve(folder, io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), out, with_frame=with_frame)
    return [json.loads(line) for line in out.getvalue().splitlines()][1:]


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_an_answer_is_the_same_text_however_it_comes(make, tmp_path: Path) -> None:  # noqa: ANN001
    tokenizer = make(tmp_path)
    bridge = bridge_of(tmp_path)
    for text in ["".join(WORDS[:9]), "a river of 日本語 🙂 words", "naïve"]:
        tokens = bridge.answer({"encode": text})["tokens"]
        parts = [bridge.answer({"add": [token]})["text"] for token in tokens]
        whole = "".join(parts) + bridge.answer({"flush": True})["text"]
        assert bridge.answer({"add": tokens})["text"] + bridge.answer({"flush": True})["text"] == whole
        assert whole.strip() == text.strip()
        assert tokenizer.decode(tokens).strip() == text.strip()


def test_places_are_bytes(tmp_path: Path) -> None:
    bridge = bridge_of(folder_with(tmp_path))
    reply = bridge.answer({"encode": "é river", "begins": True})
    assert reply["tokens"] == bridge.answer({"encode": "é river"})["tokens"]
    assert reply["begins"][0] == 0 and len(reply["begins"]) == len(reply["tokens"])
    assert all("é river".encode()[begin] & 0xc0 != 0x80 for begin in reply["begins"])


def test_a_turn_costs_its_own_tokens(tmp_path: Path) -> None:
    bridge = bridge_of(folder_with(tmp_path))
    end = load_model_text(tmp_path).tokenizer.token_id("<|end|>")
    messages = [{"role": "user", "content": "a river"}]
    first = bridge.answer({"chat": messages, "continue": True})
    assert not first["continues"]
    answer = bridge.answer({"encode": "the sea"})["tokens"]
    text = bridge.answer({"add": [*answer, end]})["text"] + bridge.answer({"flush": True})["text"]
    assert text == "the sea"
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "more words"}]
    second = bridge.answer({"chat": messages, "continue": True})
    assert second["continues"]
    kept = first["tokens"] + [*answer, end]
    tokenizer = load_model_text(tmp_path).tokenizer
    whole = TEMPLATE and load_model_text(tmp_path).chat_template.render(messages)  # type: ignore[union-attr]
    assert b"".join(map(tokenizer.token_bytes, kept + second["tokens"])).decode() == whole
    assert len(second["tokens"]) < len(tokenizer.encode(whole, add_special_tokens=False)) - len(first["tokens"])


def test_an_answer_that_was_cut_is_ended_by_the_template(tmp_path: Path) -> None:
    bridge = bridge_of(folder_with(tmp_path))
    bridge.answer({"chat": [{"role": "user", "content": "a"}], "continue": True})
    bridge.answer({"add": bridge.answer({"encode": "the"})["tokens"]})
    bridge.answer({"flush": True})
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the"},
                {"role": "user", "content": "b"}]
    reply = bridge.answer({"chat": messages, "continue": True})
    assert reply["continues"]
    end = load_model_text(tmp_path).tokenizer.token_id("<|end|>")
    assert reply["tokens"][0] == end


def test_what_was_said_otherwise_is_said_anew(tmp_path: Path) -> None:
    bridge = bridge_of(folder_with(tmp_path, "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"))
    bridge.answer({"chat": [{"role": "user", "content": "a"}], "continue": True})
    bridge.answer({"add": bridge.answer({"encode": "  the  "})["tokens"]})
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "  the  "}]
    assert not bridge.answer({"chat": messages, "continue": True})["continues"]
    assert not bridge.answer({"chat": messages, "continue": False})["continues"]


def test_without_a_template_each_message_is_a_line(tmp_path: Path) -> None:
    bridge = bridge_of(folder_with(tmp_path, None))
    assert bridge.greeting["has_template"] is False
    messages = [{"role": "system", "content": "sea"}, {"role": "user", "content": "river"}]
    reply = bridge.answer({"chat": messages, "continue": False})
    assert bridge.answer({"decode": reply["tokens"]})["text"] == "sea\nriver\n"


def test_errors_of_one_request_do_not_end_it(tmp_path: Path) -> None:
    refusing = folder_with(tmp_path, "{{ raise_exception('no system words') }}")
    refused, encoded = ask(refusing, {"chat": [{"role": "system", "content": "x"}]}, {"encode": "river"})
    assert "no system words" in refused["error"] and refused["invalid"]
    assert encoded["tokens"]


def test_broken_folders_are_told(tmp_path: Path) -> None:
    out = io.StringIO()
    (tmp_path / "tokenizer.json").write_text("{}")
    serve(tmp_path, io.StringIO(), out, with_frame=False)
    assert "tokenizer.json is no tokenizer" in json.loads(out.getvalue())["error"]
    out = io.StringIO()
    serve(folder_with(tmp_path, "{% if %}"), io.StringIO(), out, with_frame=False)
    assert "is no Jinja template" in json.loads(out.getvalue())["error"]


def test_a_template_is_cut_at_what_is_said() -> None:
    template = ChatTemplate("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}"
                            "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
                            {"bos_token": "<s>", "eos_token": "</s>"})
    assert chat_frame(template) == {"before": "<s>[user]", "answer": "</s>[assistant]", "next": "</s>[user]"}
    for source, message in [("{{ raise_exception('only one turn') }}", "only one turn.*ask without it"),
                            ("{{ messages[-1].content }}", "leaves out what was said before")]:
        with pytest.raises(ModelFolderError, match=message):
            chat_frame(ChatTemplate(source, {}))
