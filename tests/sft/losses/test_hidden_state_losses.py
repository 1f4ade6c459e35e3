"""Losses of intermediate layers: each against a dense float64 reference."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.losses.hidden_states import (
    cosine,
    document_numbers,
    mse,
    relation,
    token_weights,
)
from tests.helpers.dense_reference import close, relation_reference

# --- the formulas ---------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["mse", "relative", "cosine"]), st.integers(0, 2**31))  # fmt: skip
def test_distances_between_states_equal_a_dense_float64_reference(tokens, narrow, wide, kind, seed):
    torch.manual_seed(seed)
    student = torch.randn(tokens, narrow, requires_grad=True)
    teacher = torch.randn(tokens, wide) * 3
    matrix = torch.randn(wide, narrow, requires_grad=True)
    projected = student @ matrix.T
    each = {"mse": mse, "relative": lambda s, t: mse(s, t, relative=True), "cosine": cosine}[kind](
        projected, teacher
    )
    each.sum().backward()

    exact, weight = (x.detach().double().requires_grad_() for x in (student, matrix))
    target = teacher.double()
    wanted = []
    for i in range(tokens):
        mapped = weight @ exact[i]
        if kind == "cosine":
            norms = mapped.norm() * target[i].norm()
            wanted.append(1 - (mapped @ target[i]) / norms)
        else:
            distance = ((mapped - target[i]) ** 2).sum() / wide
            wanted.append(distance / ((target[i] ** 2).sum() / wide if kind == "relative" else 1))
    reference = torch.stack(wanted)
    reference.sum().backward()
    assert close(each, reference)
    # A cosine turns fast near zero, and in float32 as fast as the norm is small.
    slack = 1e-6 * (1 + float((1 / (exact @ weight.T).detach().norm(dim=-1)).max())) * 4
    assert close(student.grad, exact.grad, slack)
    assert close(matrix.grad, weight.grad, slack)


@st.composite
def batches(draw):
    """Labels, attention mask and position ids of a random batch, padded on a side or packed."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    labels = torch.randint(0, 9, (batch, length), generator=generator)
    labels[torch.rand(batch, length, generator=generator) < 0.4] = -100
    mask, positions = None, None
    if draw(st.booleans()):
        ends = draw(st.lists(st.integers(1, length), min_size=batch, max_size=batch))
        order = torch.arange(length)
        mask = torch.stack([order < end for end in ends]).long()
        if draw(st.booleans()):
            mask = mask.flip(1)
        labels = labels.masked_fill(mask == 0, -100)
    elif draw(st.booleans()):
        starts = torch.rand(batch, length, generator=generator) < 0.4
        starts[:, 0] = True
        order = torch.arange(length).expand(batch, -1)
        positions = order - torch.where(starts, order, 0).cummax(-1).values
    return labels, mask, positions


@given(batches(), st.sampled_from([1, 2, 3]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 400), st.integers(0, 2**31))  # fmt: skip
def test_relations_equal_a_dense_float64_reference(batch, heads, narrow, wide, chunk, seed):
    labels, mask, positions = batch
    documents = document_numbers(labels.shape, mask, positions)
    weights = token_weights(labels, documents, "all" if seed % 2 else "labelled")
    torch.manual_seed(seed)
    student = torch.randn(*labels.shape, heads * narrow, requires_grad=True)
    teacher = torch.randn(*labels.shape, heads * wide)
    loss = relation(student, teacher, heads, weights, documents, chunk_bytes=chunk)
    exact = student.detach().double().requires_grad_()
    reference = relation_reference(exact, teacher.double(), heads, weights.double(), documents)
    assert close(loss, reference)
    if weights.any():
        loss.backward()
        reference.backward()
        assert close(student.grad, exact.grad)


def test_equal_relations_cost_nothing_and_widths_may_differ():
    states = torch.randn(1, 5, 8)
    weights, documents = torch.ones(1, 5), torch.zeros(1, 5, dtype=torch.long)
    assert abs(float(relation(states, states, 4, weights, documents))) < 1e-6
    assert float(relation(torch.randn(1, 5, 12), states, 4, weights, documents)) > 0.01


def test_large_states_give_finite_losses():
    states, others = 1e4 * torch.randn(1, 6, 8), (1e4 * torch.randn(1, 6, 8)).requires_grad_()
    weights, documents = torch.ones(1, 6), torch.zeros(1, 6, dtype=torch.long)
    loss = relation(others, states, 2, weights, documents)
    loss.backward()
    assert loss.isfinite()
    assert others.grad.isfinite().all()
    assert mse(others[0], torch.zeros(6, 8), relative=True).isfinite().all()
    assert cosine(torch.zeros(2, 3), torch.zeros(2, 3)).isfinite().all()


@given(batches())
def test_the_weights_of_tokens_add_up_to_the_labels(batch):
    labels, mask, positions = batch
    documents = document_numbers(labels.shape, mask, positions)
    labelled = token_weights(labels, documents)
    spread = token_weights(labels, documents, "all")
    rows, length = labels.shape
    for b in range(rows):
        for t in range(length):
            next_is_learned = (
                t + 1 < length
                and labels[b, t + 1] != -100
                and documents[b, t] == documents[b, t + 1] >= 0
            )
            assert labelled[b, t] == next_is_learned
            same = documents[b] == documents[b, t]
            expected = 0.0 if documents[b, t] < 0 else float(labelled[b][same].sum() / same.sum())
            assert abs(float(spread[b, t]) - expected) < 1e-6
    assert abs(float(spread.sum() - labelled.sum())) < 1e-5
