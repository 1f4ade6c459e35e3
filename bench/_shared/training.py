"""What the measurements of training share: random models of a known shape, data, timed trainings.

CPU time of one thread is what is compared, since other work on the machine moves it less.
"""

import itertools
import random
import time

from common import GGUF

SHAPES = {
    # SmolLM2-135M with fewer of its 30 layers.
    "smollm2": ("llama", {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6,
                          "num_attention_heads": 9, "num_key_value_heads": 3}),
    # Qwen2.5-0.5B's vocabulary on a narrow body: the logits are most of the memory.
    "qwen2": ("qwen2", {"vocab_size": 151_936, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
                        "num_attention_heads": 4, "num_key_value_heads": 2}),
    "tiny": ("llama", {"vocab_size": 49_152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "num_key_value_heads": 2}),
}  # fmt: skip


def save_models(folder, shape, names):
    """Random models in float32 with SmolLM2's tokenizer, a folder a name."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from synth.core.models import load_tokenizer

    tokenizer = load_tokenizer(GGUF)
    kind, size = SHAPES[shape]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        kind, **size, **ends, tie_word_embeddings=True, max_position_embeddings=4096
    )
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def records(count=64):
    """Sums with more or less of a way to them; most tokens carry loss."""
    from synth.core.record import Record, Task

    draw = random.Random(0)
    made = []
    for index in range(count):
        a, b = draw.randrange(1, 99), draw.randrange(1, 99)
        way = ", ".join(f"{a} + {n} = {a + n}" for n in range(draw.randrange(1, 14)))
        task = Task(str(index), f"What is {a} + {b}? Give the answer in a box.", source="sums")
        made.append(
            Record(str(index), task, [], f"{way} so {a} + {b} = {a + b}", f"\\boxed{{{a + b}}}")
        )
    return made


def chat(task):
    return [{"role": "user", "content": task.question}]


class Clock:
    """CPU seconds, wall seconds and tokens of each step but the first."""

    def __init__(self):
        self.ends = []

    def tick(self, tokens):
        """To be called as a step ends, with all tokens so far."""
        self.ends.append((time.process_time(), time.perf_counter(), tokens))

    @property
    def steps(self):
        return [
            [b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(self.ends)
        ]


def in_turn(ways, rounds):
    """The steps of several trainings, `way(clock)` each, every way once a round."""
    found = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            clock = Clock()
            ways[name](clock)
            found[name] += clock.steps
    return found


def ours(clock, model, folder, steps, batch, labels=None, **train_config):
    """A training by `sft.training.run` for so many steps."""
    from sft.training.run import train
    from synth.config.train import Student, Train

    settings = {
        "max_steps": steps, "batch_size": batch, "learning_rate": 1e-4, "save_steps": 10**6, **train_config
    }  # fmt: skip
    train(
        records(), chat, Student(model=str(model)), Train(**settings), folder, 0,
        lambda row: clock.tick(row["tokens"]), labels,
    )  # fmt: skip
