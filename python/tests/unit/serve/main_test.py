"""Flags, and what keeps the server from starting."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_coordinator import FakeCoordinator
from serving import make_byte_model

from tributary.serve import flags
from tributary.serve.__main__ import main, warn_of_defaults
from tributary.serve.local_cluster import ClusterError, LocalCluster, find_binary
from tributary.serve.settings import Settings
from tributary.text import load_model_text


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_flags_the_settings_are_the_defaults() -> None:
    assert flags.settings_of(flags.parser().parse_args(["--model", "m"])) == Settings()
    args = flags.parser().parse_args(["--model", "m", "--max-running", "3", "--keep-s", "0.5", "--max-kept-chats", "0"])
    assert flags.settings_of(args) == Settings(max_running=3, keep_s=0.5, max_kept_chats=0)


@pytest.mark.parametrize("given, what", [
    (["--model", "m", "--port", "70000"], "'70000' is not a whole number from 0 to 65535"),
    (["--model", "m", "--keep-s", "nan"], "'nan' is not a number of seconds"),
    (["--model", "m", "--max-running", "0"], "'0' is not a whole number from 1"),
    (["--model", "m", "--coordinator", "a:1", "--", "--cpu-nodes", "2"], "'--cpu-nodes' is for a cluster that is"),
    ([], "--model"),
])
def test_wrong_flags(capsys: pytest.CaptureFixture[str], given: list[str], what: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2 and what in capsys.readouterr().err


def test_what_keeps_it_from_starting(capsys: pytest.CaptureFixture[str], fake: FakeCoordinator, tmp_path: Path) -> None:
    model = make_byte_model(tmp_path / "bytes")

    def said(*given: str) -> str:
        assert main(["--port", "0", *given]) == 1
        return capsys.readouterr().err

    assert "is not a folder" in said("--model", str(tmp_path / "absent"), "--coordinator", fake.address)
    assert ("'hf download org/name --local-dir models/org/name' and use --model models/org/name" in
            said("--model", "org/name", "--coordinator", fake.address))
    at = ["--model", str(model), "--coordinator", fake.address]
    assert "cannot read the API keys" in said(*at, "--api-key-file", str(tmp_path / "absent"))
    assert "cannot listen at" in said(*at, "--host", "192.0.2.1")
    assert "is no program" in said("--model", str(model), "--tributary", str(tmp_path / "absent"))


def test_a_tokenizer_of_another_model(capsys: pytest.CaptureFixture[str], fake: FakeCoordinator,
                                      tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {f"token{i}": i for i in range(300)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="token0"))
    made.save(str(tmp_path / "tokenizer.json"))
    assert main(["--model", str(tmp_path), "--coordinator", fake.address, "--port", "0"]) == 1
    assert "has 300 tokens, but the cluster" in capsys.readouterr().err


def test_defaults_of_a_model_that_are_not_served(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    warn_of_defaults(load_model_text(make_byte_model(tmp_path / "a", generation={"no_repeat_ngram_size": 3})))
    assert "no_repeat_ngram_size 3" in capsys.readouterr().err
    neutral = {"repetition_penalty": 1.1, "min_p": 0.1, "num_beams": 1, "typical_p": None}
    warn_of_defaults(load_model_text(make_byte_model(tmp_path / "b", generation=neutral)))
    assert capsys.readouterr().err == ""


def test_a_cluster_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tributary"
    program.write_text("#!/bin/sh\necho 'no room for weights' >&2\nexit 1\n")
    with pytest.raises(ClusterError, match="is no program"):
        find_binary(str(program))
    program.chmod(0o755)
    monkeypatch.setenv("TRIBUTARY_BIN", str(tmp_path))
    assert find_binary(None) == program
    with pytest.raises(ClusterError, match="no room for weights"), LocalCluster(find_binary(None), tmp_path, []):
        pass
    monkeypatch.delenv("TRIBUTARY_BIN")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ClusterError, match="no program 'tributary' in PATH"):
        find_binary(None)
