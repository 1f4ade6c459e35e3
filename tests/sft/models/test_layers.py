"""Layers: which learns from which, and students made of some of their teacher's."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.models.layers import decoder_layers, kept_layers, layer_pairs, take
from synth.core.errors import UserError

SMALL = dict(
    vocab_size=40, hidden_size=16, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def tiny(family, layers=6, **options):
    """A random model of a family, six layers deep unless said."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SMALL, "num_hidden_layers": layers, **options})
    return AutoModelForCausalLM.from_config(config).eval()


FAMILIES = {
    "llama": {},
    "qwen2": dict(use_sliding_window=True, sliding_window=4, max_window_layers=3),
    "qwen3": dict(head_dim=8),
    "gemma2": dict(head_dim=8, sliding_window=4),
    "gemma3_text": dict(head_dim=8, sliding_window=4, sliding_window_pattern=3),
    "smollm3": dict(no_rope_layer_interval=2),
    "phi3": {},
    "cohere2": dict(sliding_window=4),
    "qwen3_moe": dict(head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2),
    "gpt2": dict(n_embd=16, n_head=4, n_positions=64),
    "opt": dict(ffn_dim=32, word_embed_proj_dim=16),
    "gpt_neox": {},
}


def by_hand(model, kept, ids):
    """Logits when the teacher's own layers are cut out of its list: nothing else is touched."""
    layers = decoder_layers(model)
    forwards = [layer.forward for layer in layers]
    for index, layer in enumerate(layers):
        if index + 1 not in kept:
            layer.forward = lambda *args, **kwargs: args[0] if args else kwargs["hidden_states"]
    logits = model(input_ids=ids, use_cache=False).logits
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = forward
    return logits


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("keep", [3, [1, 2, 5]])
def test_a_student_is_its_teacher_without_the_dropped_layers(family, keep, tmp_path):
    from transformers import AutoModelForCausalLM

    teacher = tiny(family, **FAMILIES[family])
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    student = take(teacher, keep)
    kept = kept_layers(keep, 6)
    ids = torch.arange(3, 15).unsqueeze(0)
    with torch.no_grad():
        wanted = by_hand(teacher, kept, ids)
        mine = student(input_ids=ids).logits
        assert torch.allclose(mine, wanted, atol=1e-5)
        student.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(input_ids=ids).logits, mine)
    assert len(decoder_layers(loaded)) == 3
    types = getattr(teacher.config, "layer_types", None)
    if types:
        assert loaded.config.layer_types == [types[layer - 1] for layer in kept]
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    # Nothing is shared: the student trains, the teacher stays.
    theirs = {weight.data_ptr() for weight in teacher.parameters()}
    assert not theirs & {weight.data_ptr() for weight in student.parameters()}


def test_making_a_student_draws_no_random_numbers():
    teacher = tiny("llama")
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    take(teacher, 2)
    assert torch.rand(1) == first


def test_a_pattern_that_cannot_be_kept_is_refused():
    # Dense layers are chosen by number: the fourth would become the second.
    model = tiny("qwen3_moe", **{**FAMILIES["qwen3_moe"], "mlp_only_layers": [1]})
    with pytest.raises(UserError, match="depend on where they stand"):
        take(model, [1, 4, 6])
    # No weight tells these two apart, only what the layer was set to.
    model = tiny("gpt2", n_embd=16, n_head=4, n_positions=64)
    decoder_layers(model)[3].attn.scale_attn_weights = False
    with pytest.raises(UserError, match="depend on where they stand"):
        take(model, [1, 4, 6])


def test_what_cannot_be_cut_is_refused():
    from peft import LoraConfig, get_peft_model

    model = tiny("llama")
    with pytest.raises(UserError, match="merge the adapters"):
        take(get_peft_model(model, LoraConfig(target_modules=["q_proj"])), 2)
    model = tiny("llama")
    del model.model.layers[0]
    with pytest.raises(UserError, match="LlamaForCausalLM are not found"):
        take(model, 2)


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (1, "give 2 to 12"),
        (13, "give 2 to 12"),
        ([], "not a list of layers in rising order"),
        ([3, 2], "not a list of layers in rising order"),
        ([2, 2], "not a list of layers in rising order"),
        ([0, 2], "no layer 0; it has layers 1 to 12"),
        ([2, 13], "no layer 13"),
        ([True, 2], "no layer True"),
        (["1"], "no layer '1'"),
    ],
)
def test_layers_to_keep_that_make_no_sense_are_refused(keep, says):
    with pytest.raises(UserError, match=says):
        kept_layers(keep, 12)


@given(st.data())
def test_kept_layers_are_evenly_spread(data):
    number = data.draw(st.integers(2, 200))
    keep = data.draw(st.integers(2, number))
    kept = kept_layers(keep, number)
    assert kept[0] == 1
    assert kept[-1] == number
    assert len(kept) == keep
    gaps = [b - a for a, b in pairwise(kept)]
    assert max(gaps) - min(gaps) <= 1
    assert min(gaps) >= 1


def test_maps_are_those_of_the_papers():
    # TinyBERT, section 4.1: 4 layers of 12 learn from every third.
    assert layer_pairs("uniform", 4, 12, embeddings=True) == [
        (0, 0),
        (1, 3),
        (2, 6),
        (3, 9),
        (4, 12),
    ]
    # PKD, section 4.2: 6 and 3 layers of 12.
    assert [t for _, t in layer_pairs("skip", 6, 12)] == [2, 4, 6, 8, 10]
    assert [t for _, t in layer_pairs("last", 6, 12)] == [7, 8, 9, 10, 11]
    assert [t for _, t in layer_pairs("skip", 3, 12)] == [4, 8]
    assert [t for _, t in layer_pairs("last", 3, 12)] == [10, 11]


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_uniform_map_keeps_order_and_range_and_ends_at_the_last(student, teacher):
    pairs = layer_pairs("uniform", student, teacher)
    assert [s for s, _ in pairs] == list(range(1, student + 1))
    assert pairs[-1] == (student, teacher)
    targets = [t for _, t in pairs]
    assert targets == sorted(targets)
    assert all(1 <= t <= teacher and abs(t - s * teacher / student) <= 1 for s, t in pairs)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("unifrom", "did you mean 'uniform'"),
        ([[1, 13]], r"the teacher has no layer 13 \(pair \[1, 13\]\); it has layers 1 to 12"),
        ([[7, 1]], "the student has no layer 7"),
        ([[-1, 1]], "the student has no layer -1"),
        ([[1]], "no pair of layer numbers"),
        ([[1, 2, 3]], "no pair of layer numbers"),
        ([[1, 2.5]], "no pair of layer numbers"),
        ([["1", 2]], "no pair of layer numbers"),
        ([[1, 2], [1, 3]], "layer 1 of the student is given twice"),
        ([], "gives no pair"),
    ],
)
def test_pairs_that_are_not_there_are_refused(layers, says):
    with pytest.raises(UserError, match=says):
        layer_pairs(layers, 6, 12)


def test_a_map_with_nothing_in_it_is_refused():
    with pytest.raises(UserError, match="gives no pair for a student of 1 layers"):
        layer_pairs("skip", 1, 12)
    with pytest.raises(UserError, match="the teacher has no layer -3"):
        layer_pairs("last", 6, 2)
