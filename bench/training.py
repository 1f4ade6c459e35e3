"""Training beside plain TRL with the same settings: tokens a second of CPU time, and peak memory.

    python bench/training.py

A random model of SmolLM2's shape with 6 of its 30 layers, float32, one thread. All ways run in one
process in turn; peak memory is of a process each.
"""

import contextlib
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _shared.training import Clock, chat, in_turn, ours, records, save_models
from common import machine, measured, peak_mb, table, versions

ROUNDS, STEPS, BATCH, ROW, ROWS, TINY_STEPS = 5, 3, 4, 512, 1, 40
PART_ROUNDS = 3


def plain(clock, model, folder, steps, packed):
    """The same through SFTTrainer as its documentation has it."""
    import datasets
    from transformers import AutoModelForCausalLM, TrainerCallback
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from sft.data.chat_template import select_template, set_chat_template
    from synth.core.models import load_tokenizer
    from synth.core.reasoning import join_trace

    datasets.disable_progress_bars()
    tokenizer = load_tokenizer(str(model))
    set_chat_template(tokenizer, select_template(tokenizer))
    rows = [
        {"messages": [*chat(r.task), {"role": "assistant", "content": join_trace(r.reasoning, r.answer)}]}
        for r in records()
    ]  # fmt: skip

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


@contextlib.contextmanager
def parted(spent):
    """Adds up in `spent` the CPU seconds of a step's parts, and the positions computed, padding too."""
    import accelerate
    import torch
    import trl
    from transformers import LlamaModel

    from sft.losses import objective

    parts = [
        (LlamaModel, "forward", "body"), (objective.DistillationLoss, "__call__", "loss"),
        (trl.SFTTrainer, "compute_loss", "loss"), (accelerate.Accelerator, "backward", "backward"),
        (accelerate.Accelerator, "clip_grad_norm_", "update"), (torch.optim.AdamW, "step", "update"),
    ]  # fmt: skip

    def counted(function, part):
        def call(*args, **kwargs):
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.process_time() - began
                if part == "body":
                    spent["positions"] += kwargs["input_ids"].numel()

        return functools.wraps(function)(call)

    held = [(owner, name, getattr(owner, name)) for owner, name, _ in parts]
    for (owner, name, function), (_, _, part) in zip(held, parts, strict=True):
        setattr(owner, name, counted(function, part))
    try:
        yield
    finally:
        for owner, name, function in held:
            setattr(owner, name, function)


class PartedClock(Clock):
    """Knows besides what each part of a step took."""

    def __init__(self, spent):
        super().__init__()
        self.spent, self.sums = spent, []

    def tick(self, tokens):
        super().tick(tokens)
        self.sums.append(dict(self.spent))

    @property
    def parts(self):
        return [{part: b[part] - a[part] for part in b} for a, b in itertools.pairwise(self.sums)]


def parts_of(way, rounds, unit="tokens"):
    """Positions and CPU milliseconds of each part of a step, for a token or another unit of it."""
    spent = dict.fromkeys(("body", "loss", "backward", "update", "positions"), 0)
    found = []
    with parted(spent):
        for _ in range(rounds):
            clock = PartedClock(spent)
            way(clock)
            found += [
                {"whole": cpu, **parts, "tokens": tokens, "step": 1}
                for (cpu, _, tokens), parts in zip(clock.steps, clock.parts, strict=True)
            ]

    def median(part):
        return statistics.median(part(step) / step[unit] for step in found)

    return [
        median(lambda s: s["positions"]),
        1000 * median(lambda s: s["whole"]),
        1000 * median(lambda s: s["body"]),
        1000 * median(lambda s: s["loss"] - s["body"]),
        1000 * median(lambda s: s["backward"]),
        1000 * median(lambda s: s["update"]),
        1000 * median(lambda s: s["whole"] - s["loss"] - s["backward"] - s["update"]),
    ]


def ways_in(folder, steps):
    model = folder / "student"

    def way(function, **options):
        def run(clock):
            with tempfile.TemporaryDirectory() as place:
                function(clock, model, Path(place), steps, **options)

        return run

    return {
        "plain TRL": way(plain, packed=False),
        "sft": way(ours, batch=BATCH),
        "plain TRL, packed (bfd)": way(plain, packed=True),
        "sft, packed": way(ours, batch=ROWS, layout="packed", pack_length=ROW),
    }


def main():
    import torch

    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--one"]:
        folder, way = sys.argv[2].split("|")
        ways_in(Path(folder), 2)[way](Clock())
        print(json.dumps({"mb": peak_mb()}))
        return
    print(
        f"Random Llama of SmolLM2's shape, 6 layers, float32, one thread; steps of {BATCH} traces, or of {ROWS} row of "
        f"{ROW} tokens, in turn; medians of {ROUNDS * (STEPS - 1)}; {machine()}; {versions('torch', 'transformers', 'trl')}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_models(folder, "smollm2", ["student"])
        save_models(folder, "tiny", ["tiny"])
        found = in_turn(ways_in(folder, STEPS), ROUNDS)
        mb = {way: measured(__file__, f"{folder}|{way}")["mb"] for way in found}
        parts = {way: parts_of(run, PART_ROUNDS) for way, run in ways_in(folder, STEPS).items()}
        tiny = parts_of(
            lambda clock: ours(clock, folder / "tiny", folder / "tiny-run", TINY_STEPS, 1),
            1,
            "step",
        )
    rows, base = [], None
    for way, steps in found.items():
        rate = statistics.median(tokens / cpu for cpu, _, tokens in steps)
        base = base or rate
        wall = statistics.median(tokens / wall for _, wall, tokens in steps)
        size = statistics.mean(tokens for _, _, tokens in steps)
        rows.append(
            (way, f"{rate:.0f}", f"{rate / base:.2f}", f"{wall:.0f}", f"{size:.0f}", mb[way])
        )
    table(
        ["", "tokens/s of CPU", "ratio", "tokens/s of wall time", "tokens a step", "peak MB"], rows
    )
    print(
        "CPU milliseconds a token, by parts (other steps than above). The body is the layers below\n"
        "the output layer; positions a token are 1 where no padding is computed.\n"
    )
    table(
        ["", "positions a token", "whole step", "body", "output layer and loss", "backward", "clipping and AdamW", "rest"],
        [(way, *(f"{value:.2f}" for value in values)) for way, values in parts.items()],
    )  # fmt: skip
    print(f"The rest of a step (data, counting, logging) of a tiny model: {tiny[-1]:.1f} ms of CPU")


if __name__ == "__main__":
    main()
