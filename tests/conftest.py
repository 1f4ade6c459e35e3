"""What tests of all packages share: a run in a folder of its own, and a real API on loopback."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import HealthCheck, settings

from tests.helpers import forked_python, shared, skips

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch loads
# No test asks a hub; huggingface_hub reads this when it is imported, and retries for minutes else.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# These machines are shared: how long one example takes says nothing.
settings.register_profile(
    "here",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),  # what lands is decided by the change, not by a draw
)
settings.load_profile("here")

ROOT = Path(__file__).resolve().parents[1]
# Real data for tests lies beside the checkout, where it lies at all.
SHARED_DATA = ROOT.parent / "shared" / "data"


def completion(text, finish="stop", **message):
    """A chat completion as an OpenAI-compatible server sends it."""
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "test-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }


def pytest_terminal_summary(terminalreporter):
    """Say why tests were skipped, and what runs them."""
    for line in skips.lines(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(line)


class ApiServer:
    """An OpenAI-compatible server on loopback; `reply(body)` gives (status, headers, JSON or text)."""

    completion = staticmethod(completion)

    def __init__(self):
        self.received = []  # bodies, in the order in which they came
        self.served = []  # bodies whose answer was sent whole
        self.headers = []
        self.latency_s = 0.0
        self.reply = lambda body: (200, {}, completion("<think>a</think>\\boxed{1}"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    async def _start(self):
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"

    async def _handle(self, request):
        body = await request.json()
        self.received.append(body)
        self.headers.append(dict(request.headers))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        status, headers, answer = self.reply(body)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        response = web.Response(
            status=status, text=text, content_type="application/json", headers=headers
        )
        await response.prepare(request)
        await response.write_eof()
        self.served.append(body)
        return response

    def close(self):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def rows():
    """Reads a file of the real data; skips where it does not lie beside the checkout."""

    def read(name):
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not here")
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
        if name.endswith(".json"):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line]

    return read


@pytest.fixture
def api():
    server = ApiServer()
    yield server
    server.close()


@pytest.fixture
def distill(tmp_path):
    """Runs the command line in a process of its own, in an empty folder."""

    def call(*arguments, env=None, timeout=240, cwd=tmp_path):
        command = ["-m", "synth", *map(str, arguments)]
        if not env:
            return forked_python.run(command, cwd=cwd, timeout=timeout)
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    return call


@pytest.fixture
def write_config(tmp_path):
    """Writes a config (JSON is YAML) and gives its path."""

    def write(config, name="config.yaml"):
        path = tmp_path / name
        path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
        return path

    return write


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The tokenizer of SmolLM2, as its GGUF file has it."""
    skips.require_smollm2()
    from synth.core.models import load_tokenizer

    folder = shared.folder(tmp_path_factory, "tokenizer", shared.save_smollm2_tokenizer)
    return load_tokenizer(str(folder))


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory, smollm2):
    """SmolLM2 with its tokenizer, read from its GGUF file and saved in float32."""

    def make(folder):
        shared.save_smollm2(folder)
        smollm2.save_pretrained(folder)

    return str(shared.folder(tmp_path_factory, "smollm2", make))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, smollm2):
    """A random Llama of four layers with the tokenizer of SmolLM2."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2), hidden_size=64, intermediate_size=128, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=smollm2.bos_token_id, eos_token_id=smollm2.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2.save_pretrained(folder)
    return folder
