"""The embedded teacher beside plain `model.generate`: the quickstart's prompts, the same requests."""

import asyncio

from common import GGUF, Timer, compare

QUESTIONS, BATCH, MAX_TOKENS, RUNS = 96, 32, 48, 3
WAYS = (
    "plain generate float32",
    "embedded float32",
    "plain generate bfloat16",
    "embedded bfloat16",
)


def requests():
    from synth.config.validate import load_run
    from synth.core.prompts import load_prompt
    from synth.tasks._load import load_tasks

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


def measure(way):
    kind, dtype = way.rsplit(" ", 1)
    return (embedded if kind == "embedded" else plain)(dtype, requests())


if __name__ == "__main__":
    title = f"{QUESTIONS} prompts with shared worked examples, batch {BATCH}, at most {MAX_TOKENS} new tokens"
    compare(__file__, WAYS, RUNS, title, measure)
