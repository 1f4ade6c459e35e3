"""Tiny models for the embedded teacher, prompts for them, and what plain `generate` says to these."""

import asyncio

import pytest

from synth.teachers import transformers as teacher_module

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WINDOW = 400
EXAMPLES = [
    {"role": "system", "content": "You are a careful teacher of arithmetic."},
    {"role": "user", "content": "What is 12 + 7?"},
    {"role": "assistant", "content": "12 plus 7 is 19, so the answer is 19."},
    {"role": "user", "content": "What is 45 - 13?"},
    {"role": "assistant", "content": "Take 13 from 45: that leaves 32, so the answer is 32."},
]
SHARED = [[*EXAMPLES, {"role": "user", "content": f"What is {n} + {n * n}?"}] for n in range(3, 10)]
MIXED = [
    [{"role": "user", "content": "Hi"}],
    SHARED[0],
    [{"role": "user", "content": "Tell me of the sea, " + "and of the wind, " * 20}],
    SHARED[1],
    [{"role": "user", "content": "Hi"}],
]
GREEDY = {"temperature": 0, "max_tokens": 12}


def save(path, smollm2, model):
    model.save_pretrained(path)
    smollm2.save_pretrained(path)
    return str(path)


def tiny_llama(path, smollm2):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**_shape(smollm2), tie_word_embeddings=True)
    return save(path, smollm2, transformers.LlamaForCausalLM(config))


def tiny_gemma3(path, smollm2):
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        **_shape(smollm2), head_dim=16, tie_word_embeddings=False, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    return save(path, smollm2, transformers.Gemma3ForCausalLM(config))


def _shape(smollm2):
    return dict(
        vocab_size=len(smollm2), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=WINDOW,
        initializer_range=0.2,  # large enough for the context to sway the next token
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip


def greedy_alone(model_path, smollm2, messages, max_tokens):
    """What plain `generate` says to one prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_path, dtype=torch.float32
    ).eval()
    ids = smollm2.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
    )
    return smollm2.decode(
        out[0][len(ids) :], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def ask(model, requests, batch_size=8, rounds=1, **options):
    """Sends all requests at once, `rounds` times over; the last round's answers or exceptions."""

    async def main():
        config = teacher_module.Config(
            model=model, batch_size=batch_size, dtype="float32", device="cpu", **options
        )
        teacher = teacher_module.build(config, "tiny")
        for _ in range(rounds):
            found = await asyncio.gather(
                *(teacher.complete(request) for request in requests), return_exceptions=True
            )
        await teacher.close()
        return found

    return asyncio.run(main())


def text(raw):
    if isinstance(raw, BaseException):
        raise raw
    return raw["choices"][0]["message"]["content"]


def finish(raw):
    return raw["choices"][0]["finish_reason"]
