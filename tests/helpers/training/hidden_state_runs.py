"""Two tiny models and a batch for them."""

import torch


def tiny(layers, width, family="llama", **options):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(layers + width)
    config = AutoConfig.for_model(
        family, vocab_size=40, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, **options,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).train()


def batch(rows=3, length=9):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return dict(input_ids=ids, attention_mask=mask), labels


def run(hidden, student, teacher, inputs, labels, **positions):
    with hidden.capture():
        student(**inputs, use_cache=False, **positions)
        with torch.no_grad():
            teacher(**inputs, use_cache=False, **positions)
    return hidden.loss(labels, inputs.get("attention_mask"), positions.get("position_ids"))
