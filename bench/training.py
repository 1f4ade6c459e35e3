"""Training beside plain TRL with the same settings: tokens a second of CPU time, and peak memory.

    python bench/training.py

A random model of SmolLM2's shape with 6 of its 30 layers, float32, one thread. All ways run in one
process in turn; peak memory is of a process each.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _training import chat, in_turn, ours, peaks, records, save_models
from common import machine, peak_mb, table, versions

ROUNDS, STEPS, BATCH, ROW, ROWS = 5, 3, 4, 512, 1


def plain(model, folder, packed, steps=STEPS):
    """The same through SFTTrainer as its documentation has it."""
    import datasets
    from transformers import AutoModelForCausalLM, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from _training import Clock
    from sft.chat import apply, choose
    from synth.models import load_tokenizer
    from synth.reasoning import join_trace

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(str(model))
    apply(tokenizer, choose(tokenizer))
    rows = [
        {"messages": [*chat(r.task), {"role": "assistant", "content": join_trace(r.reasoning, r.answer)}]}
        for r in records()
    ]  # fmt: skip
    clock = Clock()

    class Follow(TrainerCallback):
        def on_log(self, args, state, control, logs, **_):
            if "num_tokens" in logs and "train_runtime" not in logs:
                clock.tick(int(logs["num_tokens"]))

    how = {"packing": True, "max_length": ROW} if packed else {"max_length": None}
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=ROWS if packed else BATCH,
        learning_rate=1e-4, assistant_only_loss=True, bf16=False, gradient_checkpointing=False, use_cpu=True,
        save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, **how,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model).train(), args=arguments,
        train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[Follow()],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.figures()


def overhead(model, folder):
    """CPU seconds a step of `sft` outside of forward, backward, clipping and the optimizer."""
    import accelerate
    import torch

    from sft import objective

    spent = [0.0]

    def counted(function):
        def call(*args, **kwargs):
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.process_time() - began

        return call

    held = []
    parts = [
        (objective.Objective, "__call__"), (accelerate.Accelerator, "backward"),
        (accelerate.Accelerator, "clip_grad_norm_"), (torch.optim.AdamW, "step"),
    ]  # fmt: skip
    for owner, name in parts:
        held.append(getattr(owner, name))
        setattr(owner, name, counted(held[-1]))
    try:
        figures = ours(model, folder, 40, 1)
    finally:
        for (owner, name), function in zip(parts, held, strict=True):
            setattr(owner, name, function)
    return (figures["cpu"] - spent[0] * figures["steps"] / 40) / figures["steps"]


def ways_in(folder):
    model = folder / "student"

    def run(function, **options):
        with tempfile.TemporaryDirectory() as place:
            return function(model, Path(place), **options)

    packed = {"layout": "packed", "pack_length": ROW}
    return {
        "plain TRL": lambda: run(plain, packed=False),
        "sft": lambda: run(ours, steps=STEPS, batch=BATCH),
        "plain TRL, packed (bfd)": lambda: run(plain, packed=True),
        "sft, packed": lambda: run(ours, steps=STEPS, batch=ROWS, **packed),
    }


def main():
    import torch

    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        folder, way = sys.argv[2].split("|")
        ways_in(Path(folder))[way]()
        print(json.dumps({"mb": peak_mb()}))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_models(folder, "smollm2", ["student"])
        save_models(folder, "tiny", ["tiny"])
        ways = ways_in(folder)
        found = in_turn(ways, ROUNDS)
        mb = peaks(__file__, [f"{folder}|{way}" for way in ways])
        rest = statistics.median(
            overhead(folder / "tiny", folder / f"overhead-{n}") for n in range(5)
        )
    print(
        f"Random Llama of SmolLM2's shape, 6 layers, float32, one thread; {STEPS - 1} steps of {BATCH} traces, or of "
        f"{ROWS} row of {ROW} tokens; {ROUNDS} rounds in turn, medians, ratios of CPU time; {machine()}; "
        f"{versions('torch', 'transformers', 'trl')}\n"
    )
    rows = []
    for way, figures in found.items():
        rates = [f["tokens"] / f["cpu"] for f in figures]
        bases = [f["tokens"] / f["cpu"] for f in found["plain TRL"]]
        walls = [f["tokens"] / f["wall"] for f in figures]
        ratio = statistics.median(a / b for a, b in zip(rates, bases, strict=True))
        rows.append(
            (way, f"{statistics.median(rates):.0f}", f"{ratio:.2f}", f"{statistics.median(walls):.0f}",
             round(figures[0]["tokens"] / figures[0]["steps"]), mb[f"{folder}|{way}"])
        )  # fmt: skip
    table(["", "tokens/s of CPU", "ratio", "tokens/s of wall time", "tokens a step", "peak MB"], rows)  # fmt: skip
    print(f"The trainer's own work a step (data, counting, logging): {1000 * rest:.1f} ms of CPU")


if __name__ == "__main__":
    main()
