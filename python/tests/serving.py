"""The server inside this process, for tests: over real sockets, in front of a coordinator that may be a fake."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import uvicorn

from tributary.serve.app import Server
from tributary.serve.auth import ApiKeys
from tributary.serve.fd_limit import raise_fd_limit
from tributary.serve.settings import Settings
from tributary.text import load_model_text

# An answer ends with byte 0, as messages do: so the next turn's prompt begins with all of the turn before.
TEMPLATE = """{%- for message in messages -%}
{%- if message.role == 'user' and message.content == 'raise' -%}{{ raise_exception('not like this') }}{%- endif -%}
[{{ message.role }}]{{ message.content }}{{ '\\x00' }}
{%- endfor -%}{%- if add_generation_prompt -%}[assistant]{%- endif -%}"""


def make_byte_model(folder: Path, *, context: int = 1000, template: str | None = TEMPLATE,
                    generation: dict[str, object] | None = None) -> Path:
    """A model folder without weights whose tokens are bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(
        {"vocab_size": 256, "eos_token_id": 0, "max_position_embeddings": context}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@dataclass
class Serving:
    address: str
    model: str

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def openai(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0,  # type: ignore
                                "timeout": 60, **options})

    def async_openai(self, **options: object) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0,  # type: ignore
                                     "timeout": 120, **options})


@contextmanager
def serving(coordinator: str, folder: Path, *, keys: tuple[str, ...] = (), hosts: Collection[str] | None = None,
            **settings: object) -> Iterator[Serving]:
    raise_fd_limit()  # tests are clients, too, and have as many descriptors again
    text = load_model_text(folder)
    made = Server(coordinator, text, ApiKeys(keys), Settings(**settings), hosts=hosts)  # type: ignore[arg-type]
    app = made.app()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=30))
    started = threading.Event()

    async def serve() -> None:
        running = asyncio.create_task(server._serve([listener]))  # noqa: SLF001 - without its signal handlers
        while not server.started and not running.done():
            await asyncio.sleep(0.005)
        started.set()
        await running

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(30), "the server did not start"
    try:
        host, port = listener.getsockname()
        yield Serving(f"{host}:{port}", text.name)
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive(), "the server did not end"
