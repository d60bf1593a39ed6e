"""Chat templates as models have them, and what goes wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tributary.text import ChatError, ChatTemplate, ModelFolderError, load_chat_template

USER = [{"role": "user", "content": "Hi & <bye>"}]
# Of Llama 2, as Hugging Face has it: roles must alternate.
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
{% set system_message = false %}{% endif %}{% for message in loop_messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if loop.index0 == 0 and system_message != false %}\
{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def test_llama2() -> None:
    template = ChatTemplate(LLAMA2, NAMES)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi "},
                {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Bye"}]
    assert template.render(messages) == ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n Hi [/INST] Yes? </s>"
                                         "<s>[INST] Bye [/INST]")
    with pytest.raises(ChatError, match="roles must alternate"):
        template.render([USER[0], USER[0]])


def test_nothing_is_escaped_and_blocks_leave_no_lines() -> None:
    source = "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}"
    template = ChatTemplate(source, {})
    assert template.render(USER) == "Hi & <bye>\n"


def test_what_templates_use() -> None:
    source = ("{% generation %}{{ messages[0]['content'] | length }}{% endgeneration %}"
              "{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
              "{{ {'a': 'é', 'b': '<'} | tojson }}{{ strftime_now('%Y') | length }}"
              "{% if tools is none and not enable_thinking %}plain{% endif %}{{ add_generation_prompt }}")
    rendered = ChatTemplate(source, {}).render(USER, variables={"enable_thinking": False})
    assert rendered == '101{"a": "é", "b": "<"}4plainTrue'


def test_a_template_cannot_leave_its_sandbox() -> None:
    for source in ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"):
        with pytest.raises(ChatError):
            ChatTemplate(source, {}).render(USER)


def test_variables_do_not_hide_the_messages() -> None:
    assert ChatTemplate("{{ messages | length }}", {}).render(USER, variables={"messages": []}) == "1"


def test_faults_of_a_template_name_it(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("a\n{% for %}")
    with pytest.raises(ModelFolderError, match=r"chat_template.jinja is no Jinja template: line 2"):
        load_chat_template(tmp_path)
    with pytest.raises(ChatError, match="ZeroDivisionError"):
        ChatTemplate("{{ 1 // 0 }}", {}).render(USER)


def test_where_templates_are_found(tmp_path: Path) -> None:
    def said(override: Path | None = None) -> str:
        template = load_chat_template(tmp_path, override)
        assert template is not None
        return template.render(USER)

    assert load_chat_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "config {{ eos_token }}", "eos_token": {"content": "</s>"}}))
    assert said() == "config </s>"
    config.write_text(json.dumps({"chat_template": [{"name": "tool_use", "template": "t"},
                                                    {"name": "default", "template": "default"}]}))
    assert said() == "default"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert said() == "json"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert said() == "file"
    (tmp_path / "mine").write_text("mine")
    assert said(tmp_path / "mine") == "mine"
    with pytest.raises(ModelFolderError, match="cannot read"):
        load_chat_template(tmp_path, tmp_path / "absent")
