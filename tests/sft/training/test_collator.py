"""Layouts: examples that share a row never see each other, and a model in which they do is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.encoding import IGNORED, Encoded
from sft.training.collator import check_isolation, collate, split_inputs
from synth.core.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "Phi3": {},
}  # fmt: skip


def tiny(family, seed=0, **more):
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**SIZE, **FAMILIES.get(family, {}), **more)
    name = "Gemma3" if family == "Gemma3Text" else family
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def example(*tokens, prompt=1):
    return Encoded(list(tokens), [IGNORED] * prompt + list(tokens[prompt:]))


EXAMPLES = st.lists(
    st.lists(st.integers(3, 96), min_size=2, max_size=12).map(lambda tokens: example(*tokens)),
    min_size=1,
    max_size=6,
)


def rows_of(examples, layout):
    if layout == "padding_free":
        return [examples]
    if layout == "padded":
        return [[one] for one in examples]
    return [examples[: len(examples) // 2 + 1], examples[len(examples) // 2 + 1 :]][
        : 2 if len(examples) > 1 else 1
    ]


@given(EXAMPLES, st.sampled_from(["padded", "padding_free", "packed"]))
def test_every_token_and_label_has_one_place(examples, layout):
    rows = [row for row in rows_of(examples, layout) if row]
    batch = collate(rows, layout, pad=0)
    kept = batch["labels"][:, 1:] != IGNORED
    wanted = [token for one in examples for token in one.labels[1:] if token != IGNORED]
    assert batch["labels"][:, 1:][kept].tolist() == wanted, "in the order of the examples"
    # What stands before a label is the token before it in its own example.
    before = batch["input_ids"][:, :-1][kept].tolist()
    assert before == [
        one.input_ids[place]
        for one in examples
        for place, label in enumerate(one.labels[1:])
        if label != IGNORED
    ]
    if layout == "padded":
        assert int(batch["attention_mask"].sum()) == sum(len(e.input_ids) for e in examples)
        assert "position_ids" not in batch
    else:
        assert "attention_mask" not in batch
        for number, row in enumerate(rows):
            starts = batch["position_ids"][number].tolist()
            wanted = [place for one in row for place in range(len(one.input_ids))]
            assert starts[: len(wanted)] == wanted
            rest = len(starts) - len(wanted)
            assert batch["labels"][number, len(wanted) :].tolist() == [IGNORED] * rest


def test_a_label_on_a_first_token_never_crosses():
    """Its prediction would be by the last token of the example before it."""
    bold = Encoded([5, 6], [5, 6])
    for layout, rows in (("padding_free", [[bold, bold]]), ("padded", [[bold], [bold]])):
        labels = collate(rows, layout, pad=0)["labels"]
        assert int((labels != IGNORED).sum()) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["padding_free", "packed"])
def test_logits_and_gradients_in_a_shared_row_are_those_alone(family, attention, layout):
    model = tiny(family, attn_implementation=attention)
    check_isolation(model)
    generator = torch.Generator().manual_seed(1)
    examples = [
        example(*torch.randint(3, 97, (length,), generator=generator).tolist(), prompt=2)
        for length in (9, 17, 3, 12, 2, 20, 5)
    ]
    rows = [examples] if layout == "padding_free" else [examples[:3], examples[3:6], examples[6:]]

    def summed(batch):
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        kept = labels[:, 1:] != IGNORED
        picked = logits[:, :-1][kept]
        loss = torch.nn.functional.cross_entropy(picked, labels[:, 1:][kept], reduction="sum")
        return picked, torch.autograd.grad(loss, list(model.parameters()))

    together, slopes = summed(collate(rows, layout, pad=0))
    alone = [summed(collate([[one]], "padded", pad=0)) for one in examples]
    torch.testing.assert_close(together, torch.cat([one[0] for one in alone]), rtol=1e-5, atol=1e-5)
    for number, slope in enumerate(slopes):
        want = sum(one[1][number] for one in alone)
        torch.testing.assert_close(slope, want, rtol=1e-4, atol=1e-5 * max(1, want.abs().max()))


class Deaf(torch.nn.Module):
    """A model that looks at no positions: a mean of all tokens so far."""

    def __init__(self):
        super().__init__()
        self.inner = tiny("Llama")
        self.dtype, self.device = torch.float32, self.inner.device

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    @property
    def base_model(self):
        return lambda input_ids, position_ids, use_cache: self.inner.model(
            input_ids=input_ids, use_cache=use_cache
        )


def test_a_model_that_ignores_where_documents_begin_is_refused():
    with pytest.raises(UserError, match=r"train\.layout: .*see each other: they do\. Use layout"):
        check_isolation(Deaf())


@pytest.mark.parametrize("family", ["Mamba", "Mamba2", "FalconH1", "RecurrentGemma"])
def test_a_state_space_model_is_refused(family):
    torch.manual_seed(0)
    small = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2}
    more = {
        "Mamba": {"state_size": 4},
        "Mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
        "FalconH1": {
            "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
            "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
        "RecurrentGemma": {
            "intermediate_size": 96, "num_attention_heads": 4, "lru_width": 32,
            "attention_window_size": 64, "num_hidden_layers": 3, "head_dim": 8,
        },
    }[family]  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**{**small, **more})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    assert model.training
    with pytest.raises(UserError, match=r"train\.layout: .*Use layout: padded"):
        check_isolation(model)
    assert model.training, "it is left as it was"


def test_a_model_that_is_broken_is_left_to_the_check_of_its_loss():
    model = tiny("Llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    check_isolation(model)


def test_what_cannot_be_tried_is_refused():
    class Other(Deaf):
        @property
        def base_model(self):
            raise ValueError("no such thing")

    with pytest.raises(UserError, match=r"cannot be tried \(ValueError\)"):
        check_isolation(Other())


def test_what_the_student_is_handed_and_what_not():
    batch = {"input_ids": 1, "labels": 2, "records": ["a"], "tokens": 3, "soft": [], "weights": 4}
    plain, rest = split_inputs(batch)
    assert set(plain) == {"input_ids", "labels"}
    assert set(rest) == {"records", "tokens", "soft", "weights"}
