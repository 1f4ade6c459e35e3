"""The embedded teacher beside plain `model.generate`, transformers' continuous batching and llama.cpp.

The quickstart's prompts, the same requests. llama.cpp takes part where `xllamacpp` is installed
(`pip install xllamacpp`); it computes with the file's own 4 bits, the others with its weights in
float32 or bfloat16.
"""

import asyncio
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor

from common import GGUF, Timer, compare

QUESTIONS, BATCH, MAX_TOKENS, RUNS = 96, 32, 48, 3
WAYS = (
    "plain generate float32",
    "embedded float32",
    "plain generate bfloat16",
    "embedded bfloat16",
    "continuous float32",
    *(("llama.cpp Q4_1",) if importlib.util.find_spec("xllamacpp") else ()),
)
SLOTS = 8  # of llama.cpp: requests that it decodes together


def requests():
    from synth.config.validate import load_run
    from synth.core.prompts import load_prompt
    from synth.tasks import load_tasks

    run, _ = load_run("quickstart")
    prompt = load_prompt(run.generate.prompt.template)
    tasks = load_tasks(run.tasks, run.seed).train[:QUESTIONS]
    return [prompt.messages(task, run.generate.prompt.values) for task in tasks]


def plain(dtype, chats):
    """Left-padded batches through `generate`, as transformers' own documentation has it."""
    import torch

    from synth.core.models import load_model, load_tokenizer

    model, tokenizer = load_model(GGUF, dtype), load_tokenizer(GGUF)
    tokenizer.padding_side = "left"
    torch.manual_seed(0)

    def ask(batch):
        inputs = tokenizer.apply_chat_template(
            batch, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(
            **inputs, do_sample=True, temperature=0.7, top_k=0, max_new_tokens=MAX_TOKENS
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        return int(((new != tokenizer.pad_token_id) & (new != tokenizer.eos_token_id)).sum())

    ask(chats[:2])
    with Timer() as timer:
        tokens = sum(ask(chats[i : i + BATCH]) for i in range(0, len(chats), BATCH))
    return tokens, timer.seconds


def embedded(dtype, chats):
    from synth.core.record import Request
    from synth.teachers import transformers

    teacher = transformers.build(
        transformers.Config(model=GGUF, dtype=dtype, batch_size=BATCH), "bench"
    )
    sampling = {"temperature": 0.7, "max_tokens": MAX_TOKENS}

    async def run():
        await teacher.complete(Request([{"role": "user", "content": "1"}], {"max_tokens": 2}))
        with Timer() as timer:
            answers = await asyncio.gather(
                *(teacher.complete(Request(chat, sampling)) for chat in chats)
            )
        await teacher.close()
        return sum(a["usage"]["completion_tokens"] for a in answers), timer.seconds

    return asyncio.run(run())


def continuous(dtype, chats):
    """`generate_batch` of transformers: paged attention, requests join as others leave."""
    from transformers import GenerationConfig

    from synth.core.models import load_model, load_tokenizer

    model, tokenizer = load_model(GGUF, dtype), load_tokenizer(GGUF)
    model.set_attn_implementation("sdpa")
    options = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=0, max_new_tokens=MAX_TOKENS,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
        num_blocks=128, max_batch_tokens=512,
    )  # fmt: skip
    ids = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        for chat in chats
    ]
    model.generate_batch(inputs=ids[:2], generation_config=options)
    with Timer() as timer:
        outputs = model.generate_batch(inputs=ids, generation_config=options)
    return sum(len(output.generated_tokens) for output in outputs.values()), timer.seconds


def llama_cpp(dtype, chats):
    import xllamacpp

    from synth.core.models import locate

    folder, file = locate(GGUF)
    params = xllamacpp.CommonParams()
    params.model.path = os.path.join(folder, file)
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * 1024
    params.cpuparams.n_threads = len(os.sched_getaffinity(0))
    server = xllamacpp.Server(params)

    def ask(chat, max_tokens=MAX_TOKENS):
        answer = server.handle_chat_completions(
            {"messages": chat, "max_tokens": max_tokens, "temperature": 0.7, "top_k": 0}
        )
        return answer["usage"]["completion_tokens"]

    ask([{"role": "user", "content": "1"}], 2)
    with Timer() as timer, ThreadPoolExecutor(BATCH) as pool:
        tokens = sum(pool.map(ask, chats))
    return tokens, timer.seconds


def measure(way):
    kind, dtype = way.rsplit(" ", 1)
    ways = {"embedded": embedded, "continuous": continuous, "llama.cpp": llama_cpp}
    return ways.get(kind, plain)(dtype, requests())


if __name__ == "__main__":
    title = f"{QUESTIONS} prompts with shared worked examples, batch {BATCH}, at most {MAX_TOKENS} new tokens"
    compare(__file__, WAYS, RUNS, title, measure)
