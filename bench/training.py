"""Training beside plain TRL with the same settings: tokens a second and peak memory."""

import tempfile
from pathlib import Path

from common import GGUF, Timer, compare

EXAMPLES, BATCH, STEPS, RUNS = 128, 8, 6, 3
WAYS = ("plain TRL", "synth-distill")


def records():
    import random

    from synth.record import Record, Task

    draw = random.Random(0)
    made = []
    for index in range(EXAMPLES):
        a, b = draw.randrange(1, 99), draw.randrange(1, 99)
        more = ", ".join(f"{a} + {n} = {a + n}" for n in range(draw.randrange(4)))
        reasoning = f"{more} so {a} + {b} = {a + b}"
        task = Task(
            str(index),
            f"{a} + {b}\n\nReason step by step inside <think> and </think>, then give the final answer in \\boxed{{}}.",
        )
        made.append(Record(str(index), task, [], reasoning, f"\\boxed{{{a + b}}}"))
    return made


def chat(task):
    return [{"role": "user", "content": task.question}]


def ours(folder):
    from sft.train import train
    from synth.training_config import Student, Train

    config = Train(max_steps=STEPS, batch_size=BATCH, learning_rate=1e-4, save_steps=1000)
    result = train(records(), chat, Student(model=GGUF), config, folder, 0)
    return result.tokens, result.seconds


def plain(folder):
    """The same model, data, template and settings through SFTTrainer as its documentation has it."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from sft.chat import apply, choose
    from synth.models import load_model, load_tokenizer
    from synth.reasoning import join_trace

    tokenizer = load_tokenizer(GGUF)
    apply(tokenizer, choose(tokenizer))
    rows = [
        {
            "messages": [
                *chat(r.task),
                {"role": "assistant", "content": join_trace(r.reasoning, r.answer)},
            ]
        }
        for r in records()
    ]
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=1e-4,
        assistant_only_loss=True, max_length=None, bf16=False, gradient_checkpointing=False,
        save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=load_model(GGUF).train(), args=arguments, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    with Timer() as timer:
        trainer.train()
    return int(trainer.state.log_history[-2]["num_tokens"]), timer.seconds


def measure(way):
    with tempfile.TemporaryDirectory() as folder:
        return (ours if way == "synth-distill" else plain)(Path(folder))


if __name__ == "__main__":
    title = f"SmolLM2-135M in float32, {STEPS} steps of {BATCH} short traces, unpacked"
    compare(__file__, WAYS, RUNS, title, measure)
