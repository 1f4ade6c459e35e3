"""What the tests of on-policy distillation share: tiny models, a tokenizer, a trainer, its answers."""

import torch

from sft.training.checkpoints import StepLog, drop_halves, last_whole
from sft.training.monitor import TrainingMonitor
from sft.training.on_policy import build_on_policy
from synth.config.train import Train
from synth.core.record import Message


def asks(n=8):
    return [[Message(role="user", content=f"What is {i} + {i % 3}?")] for i in range(n)]


def tiny(tokenizer, rows=None, seed=0, window=256, **config):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    size = {
        "vocab_size": rows or len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": window, "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, **config,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**size))


def trained_bpe(size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    texts = [f"So {i} and {i * 7} make {i * 8}, is what they say." for i in range(300)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>"
    )


def settings(on_policy=None, **config):
    return Train(**{
        "method": "on_policy", "teachers": {"big": {"model": "x"}},
        "on_policy": {"max_new_tokens": 8, **(on_policy or {})},
        "batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "save_steps": 3, **config,
    })  # fmt: skip


def build(student, tokenizer, teacher, teacher_tokenizer, folder, prompts=None, **config):
    """The trainer as sft.training.run sets it up, ready to go on from the last whole checkpoint."""
    watch = TrainingMonitor(StepLog(folder / "log.jsonl"))
    found = last_whole(folder / "checkpoints")
    drop_halves(folder / "checkpoints")
    if found:
        watch.resumes(found[1])
    watch.log.cut_after(watch.meter.step)
    prompts = asks() if prompts is None else prompts
    trainer = build_on_policy(
        student, tokenizer, teacher, teacher_tokenizer, prompts, settings(**config), folder, 3, watch,
    )  # fmt: skip
    return trainer, watch, str(found[0]) if found else None


def answered(trainer, number=4):
    """A batch of answers, as the trainer hands it to the loss."""
    data = [trainer.train_dataset[i] for i in range(number)]
    trainer.model.train()
    return trainer._generate_and_score_completions(data)


def logits(model, prompt, answer):
    """In float64, what predicts each token of the answer."""
    ids = torch.tensor([prompt + answer])
    return model(input_ids=ids).logits[0, len(prompt) - 1 : -1]


def rows_of(batch):
    for i in range(len(batch["prompt_ids"])):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
        yield prompt, batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
