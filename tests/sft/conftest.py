"""A tiny random student with the real tokenizer of SmolLM2, and the same dressed as R1-Distill's."""

import pytest

# SmolLM2's tokenizer with R1's special tokens stands in for R1-Distill's own.
R1_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]


@pytest.fixture(scope="session")
def checkpoint(smollm2, tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(smollm2), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=smollm2.bos_token_id, eos_token_id=smollm2.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    smollm2.save_pretrained(folder)
    return folder


@pytest.fixture
def plain_tokenizer(checkpoint):
    """SmolLM2's tokenizer as it comes, to be changed at will."""
    from synth.core.models import load_tokenizer

    return load_tokenizer(str(checkpoint))


@pytest.fixture(scope="session")
def tokenizers(checkpoint):
    """The tokenizer of each family, with our template applied."""
    from sft.data.chat_template import select_template, set_chat_template
    from synth.core.models import load_tokenizer

    made = {"chatml": load_tokenizer(str(checkpoint)), "r1": load_tokenizer(str(checkpoint))}
    made["r1"].add_special_tokens({"additional_special_tokens": R1_TOKENS})
    for tokenizer in made.values():
        set_chat_template(tokenizer, select_template(tokenizer))
    return made


@pytest.fixture(params=["chatml", "r1"])
def student_tokenizer(request, tokenizers):
    return tokenizers[request.param]
