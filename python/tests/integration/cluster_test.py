"""The package in front of real processes, with the probe model: its tokens are bytes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from cluster import BIN, Cluster
from fake_coordinator import wait_until
from serving import Serving, serving

import tributary
from tributary import Client, InvalidRequestError, Keep, Placement, Policy

ROOT = Path(__file__).resolve().parents[3]
PROBE = ROOT / "models" / "probe"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
SMALL = {"window_tokens": 128, "sink_tokens": 16, "block_tokens": 16, "kv_dtype": "f32"}
TEXT = "".join(random.Random(7).choices("abcdefghij klmnop qrstu vwxyz.", k=900))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(cpu_nodes=2) as one:
        yield one


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe model's folder with a chat template."""
    folder = tmp_path_factory.mktemp("probe") / "probe"
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        (folder / file).symlink_to(PROBE / file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def server(cluster: Cluster, probe: Path) -> Iterator[Serving]:
    with serving(cluster.coordinator, probe) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_is_left(cluster: Cluster) -> Iterator[None]:
    """No request runs on when a test is over."""
    yield
    wait_until(lambda: cluster.status()["requests_running"] == 0, "no request runs")


def test_the_clients_and_the_server_give_the_same_tokens(cluster: Cluster, server: Serving) -> None:
    with Client(cluster.coordinator) as client:
        generation = client.generate(TEXT.encode(), max_tokens=24, placement=Placement(**SMALL))
        tokens = list(generation.tokens())
        summary = generation.summary
    assert summary is not None and summary.remote_tokens > 600
    assert sum(node.tokens for node in summary.nodes) == summary.remote_tokens
    by_command = cluster.generate(TEXT.encode(), "--max-tokens", "24", "--window-tokens", "128", "--sink-tokens", "16",
                                  "--block-tokens", "16", "--kv-dtype", "f32")
    assert by_command["tokens"] == tokens
    answer = server.openai().completions.create(
        model="probe", prompt=TEXT, max_tokens=24, temperature=0, extra_body={"tributary": SMALL})
    assert answer.choices[0].text == bytes(tokens).decode(errors="replace")
    assert answer.usage.tributary["remote_tokens"] == summary.remote_tokens

    async def ask() -> list[int]:
        async with tributary.aio.Client(cluster.coordinator) as client:
            return [token async for token in (await client.generate(
                TEXT.encode(), max_tokens=24, placement=Placement(**SMALL))).tokens()]

    assert asyncio.run(ask()) == tokens


def test_a_kept_sequence_of_the_client(cluster: Cluster) -> None:
    with Client(cluster.coordinator) as client:
        first = client.generate(TEXT.encode(), max_tokens=8, placement=Placement(**SMALL), ignore_eos=True,
                                keep=Keep(lease_s=60, max_context_tokens=2000))
        whole = [*TEXT.encode(), *first.tokens()]
        assert first.summary is not None and first.summary.kept is not None
        second = client.generate(b" and then", max_tokens=8, ignore_eos=True, continue_request_id=first.request_id)
        tokens = list(second.tokens())
        expected = client.generate([*whole, *b" and then"], max_tokens=8, ignore_eos=True, placement=Placement(**SMALL))
        assert list(expected.tokens()) == tokens


@pytest.mark.parametrize("policy", [{}, {"policy": "hgca", "parameters": {"beta": 4, "quality_sample_rate": 1}}])
def test_a_chat_in_turns_costs_its_own_tokens(server: Serving, policy: dict[str, object]) -> None:
    options = {"tributary": {**SMALL, **policy}}
    messages = [{"role": "user", "content": TEXT}]
    client = server.openai()
    cached = []
    for i in range(3):
        answer = client.chat.completions.create(model="probe", messages=messages, max_tokens=12, temperature=0,
                                                extra_body=options)
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
        assert answer.usage.tributary["kept_s"] == 300 and answer.choices[0].finish_reason == "length"
        if policy:
            assert answer.usage.tributary["policy"] == "hgca" and answer.usage.tributary["remote_read_share"] < 1
            assert 0 < answer.usage.tributary["kept_mass_mean"] <= 1 + 1e-6
        else:
            # The same without reuse: dense attention does not tell the difference.
            alone = client.chat.completions.create(
                model="probe", messages=messages, max_tokens=12, temperature=0,
                extra_body={"tributary": {**SMALL, "keep": False}})
            assert alone.choices[0].message.content == answer.choices[0].message.content
            assert alone.usage.prompt_tokens_details.cached_tokens == 0
        messages = [*messages, {"role": "assistant", "content": answer.choices[0].message.content},
                    {"role": "user", "content": f"and {i}?"}]
    first = len(f"user: {TEXT}\nassistant: ")
    turn = 12 + len("\nuser: and 0?\nassistant: ")
    assert cached == [0, first + 12, first + turn + 12]


def test_logprobs_are_those_of_the_engine(cluster: Cluster, server: Serving) -> None:
    with Client(cluster.coordinator) as client:
        events = [event for event in client.generate(TEXT.encode(), max_tokens=6, top_logprobs=3)
                  if isinstance(event, tributary.Tokens)]
    answer = server.openai().completions.create(model="probe", prompt=TEXT, max_tokens=6, temperature=0, logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs == [value for event in events for value in event.logprobs]
    assert [len(top) for top in logprobs.top_logprobs] == [3] * 6


def test_a_seed_is_an_answer(server: Serving) -> None:
    def ask(seed: int) -> str:
        client = server.openai()
        return client.completions.create(model="probe", prompt=TEXT, max_tokens=24, temperature=1.5,
                                         seed=seed).choices[0].text

    assert ask(5) == ask(5)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_a_quality_is_the_policy_it_stands_for(cluster: Cluster, server: Serving) -> None:
    def ask(**options: object) -> object:
        return server.openai().completions.create(model="probe", prompt=TEXT, max_tokens=8, temperature=0,
                                                  extra_body={"tributary": {**SMALL, **options}})

    named, spelled = ask(quality="balanced"), ask(policy="delta", parameters={"max_share": 0.01})
    assert named.choices[0].text == spelled.choices[0].text
    for answer in (named, spelled):
        assert answer.usage.tributary["policy"] == "delta" and answer.usage.tributary["remote_read_share"] < 1
    assert named.usage.tributary["remote_read_share"] == spelled.usage.tributary["remote_read_share"]
    assert ask(quality="exact").usage.tributary["policy"] == "dense"
    for wrong in ({"quality": "best"}, {"quality": "high", "policy": "hgca"},
                  {"quality": "high", "parameters": {"max_share": 0.5}}):
        with pytest.raises(openai.BadRequestError, match="quality"):
            ask(**wrong)
    with Client(cluster.coordinator) as client, pytest.raises(InvalidRequestError, match="quality 'best'"):
        list(client.generate(b"a", policy=Policy(quality="best")))


def test_errors_name_what_was_wrong(cluster: Cluster, server: Serving) -> None:
    with Client(cluster.coordinator) as client, pytest.raises(InvalidRequestError, match="policy"):
        list(client.generate(b"a", policy=Policy(name="no-such")))
    with pytest.raises(openai.BadRequestError, match="no-such"):
        server.openai().completions.create(model="probe", prompt="a", extra_body={"tributary": {"policy": "no-such"}})
    with pytest.raises(openai.BadRequestError, match="context is 65536 tokens.* the prompt has 70000"):
        server.openai().completions.create(model="probe", prompt="a" * 70000)
    with pytest.raises(openai.BadRequestError, match=r"prompt_tokens\[0\] is 300"):
        server.openai().completions.create(model="probe", prompt=[300])


def test_many_chats_and_some_that_leave(cluster: Cluster, server: Serving) -> None:
    async def one(client: openai.AsyncOpenAI, i: int) -> int:
        stream = await client.chat.completions.create(
            model="probe", messages=[{"role": "user", "content": f"{i} {TEXT[:200]}"}], max_tokens=12, stream=True)
        count = 0
        async for chunk in stream:
            count += chunk.choices[0].finish_reason == "length"
            if i % 5 == 0:
                await stream.close()
                break
        return count

    async def all_of_them() -> list[int]:
        async with server.async_openai(timeout=600) as client:
            return await asyncio.gather(*(one(client, i) for i in range(40)))

    assert asyncio.run(all_of_them()) == [0 if i % 5 == 0 else 1 for i in range(40)]


def test_a_server_that_starts_its_cluster(probe: Path, tmp_path: Path) -> None:
    port_file = tmp_path / "port.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "tributary.serve", "--model", probe, "--port", "0", "--port-file", port_file,
         "--tributary", BIN / "tributary", "--", "--cpu-nodes", "1", "--log-dir", tmp_path / "logs"],
        stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, "it listens", 120)
        told = json.loads(port_file.read_text())
        server = Serving(told["listen"], "probe")
        answer = server.openai().chat.completions.create(
            model="probe", messages=[{"role": "user", "content": "a"}], max_tokens=5)
        assert answer.usage.completion_tokens == 5
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 0 and "Traceback" not in errors, errors
        with Client(told["coordinator"], connect_timeout_s=0.5) as client, pytest.raises(tributary.UnavailableError):
            client.status()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_cluster_that_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 256}')
    done = subprocess.run([sys.executable, "-m", "tributary.serve", "--model", tmp_path, "--port", "0", "--tributary",
                           BIN / "tributary"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "the cluster did not start" in done.stderr and "Traceback" not in done.stderr


def test_nodes_that_are_lost_are_named(probe: Path) -> None:
    """Where no other can take what they held: the answer waits for one, as long as it may."""
    with Cluster(cpu_nodes=2) as own, serving(own.coordinator, probe) as server:
        own.check_exit = False
        stream = server.openai().completions.create(model="probe", prompt=TEXT, max_tokens=5000, stream=True,
                                                    extra_body={"tributary": {**SMALL, "max_stall_s": 3},
                                                                "ignore_eos": True})
        with pytest.raises(openai.APIError, match="cpu-[01].*could not be rebuilt"):
            for i, _ in enumerate(stream):
                if i == 3:
                    own.signal("cpu-0", signal.SIGKILL)
                    own.signal("cpu-1", signal.SIGKILL)
        wait_until(lambda: own.status()["requests_running"] == 0, "the sequence has ended")


def test_kept_chats_make_room_for_who_waits(probe: Path) -> None:
    """The nodes' memory is enough for one chat and what is reserved for its later turns."""
    small = ["--kv-pool-bytes", str(24 << 20)]
    with Cluster(cpu_nodes=1, flags=small) as own, serving(own.coordinator, probe) as server:
        def ask(content: str) -> openai.types.chat.ChatCompletion:
            return server.openai().chat.completions.create(
                model="probe", messages=[{"role": "user", "content": content}], max_tokens=8,
                extra_body={"tributary": SMALL})

        kept = []
        for i in range(3):
            ask(f"{i} {TEXT}")
            kept.append([sequence["request_id"] for sequence in own.status()["kept_sequences"]])
        assert [len(names) for names in kept] == [1, 1, 1] and len({names[0] for names in kept}) == 3


def test_biases_and_penalties_change_a_greedy_answer(server: Serving) -> None:
    def ask(**fields: object) -> str:
        return server.openai().completions.create(
            **{"model": "probe", "prompt": TEXT, "max_tokens": 16, "temperature": 0,
               "extra_body": {"tributary": SMALL, "ignore_eos": True}, **fields}).choices[0].text

    plain = ask()
    assert ask(logit_bias={str(ord("q")): 100}) == 16 * "q"
    assert plain[0] not in ask(logit_bias={str(ord(plain[0])): -100})
    # With a bias that beats everything, each token that it has had costs the answer two of its lead.
    two = {str(ord("q")): 60, str(ord("z")): 59}
    evened = ask(logit_bias=two, frequency_penalty=2)
    assert set(evened) == {"q", "z"} and 6 <= evened.count("q") <= 10
    alone = ask(logit_bias=two)
    assert abs(alone.count("q") - 8) > abs(evened.count("q") - 8), "without the penalty one of them leads"
    assert ask(presence_penalty=0, frequency_penalty=0) == plain


def test_min_p_of_one_is_greedy(server: Serving) -> None:
    def ask(**fields: object) -> str:
        return server.openai().completions.create(
            model="probe", prompt=TEXT, max_tokens=16, seed=3, **fields).choices[0].text

    assert ask(temperature=1.5, extra_body={"min_p": 1}) == ask(temperature=0)
    assert ask(temperature=1.5, extra_body={"min_p": 0}) == ask(temperature=1.5)


def test_an_echo_is_scored_as_the_engine_scores(cluster: Cluster, server: Serving) -> None:
    prompt = TEXT[:60]
    with Client(cluster.coordinator) as client:
        events = [event for event in client.generate(prompt[:1].encode(), max_tokens=64, ignore_eos=True,
                                                     forced_tokens=prompt[1:].encode())
                  if isinstance(event, tributary.Tokens)]
    scored = [value for event in events for value in event.logprobs]
    answer = server.openai().completions.create(model="probe", prompt=prompt, max_tokens=5, temperature=0, logprobs=2,
                                                echo=True, extra_body={"ignore_eos": True})
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs == [None, *scored] and answer.choices[0].text.startswith(prompt)
    assert answer.usage.prompt_tokens == 60 and answer.usage.completion_tokens == 5
