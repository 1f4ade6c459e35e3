"""Each divergence and each treatment of the tail against float64 references in plain numpy."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sft.losses.divergences import (
    DIVERGENCES,
    Divergence,
    Kind,
    dense,
    divergence,
    mix_dense,
    mix_top_k,
    top_k,
)
from synth.config.distillation import SoftLabels
from synth.core.errors import UserError

torch = pytest.importorskip("torch")

KINDS = ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "tvd"]
TAILS = ["bucket", "renormalise", "both"]


# --- the reference --------------------------------------------------------------------------------


def softmax(z):
    with np.errstate(under="ignore"):
        e = np.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    with np.errstate(divide="ignore"):
        return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def value_and_slope(p, q, how):
    """The divergence of two distributions and its derivative by each q, worked out by hand."""
    b, s = how.beta, how.skew
    some = np.where(q > 0, q, 1.0)
    if how.kind == "forward_kl":
        return kl(p, q), -p / some
    if how.kind == "reverse_kl":
        return kl(q, p), np.log(some / np.where(p > 0, p, 1.0)) + 1
    if how.kind == "jsd":
        m = b * p + (1 - b) * q
        return b * kl(p, m) + (1 - b) * kl(q, m), (1 - b) * np.log(some / np.where(m > 0, m, 1.0))
    if how.kind == "skewed_kl":
        m = s * p + (1 - s) * q
        return kl(p, m), -p * (1 - s) / np.where(m > 0, m, 1.0)
    if how.kind == "skewed_reverse_kl":
        m = np.where(p + q > 0, (1 - s) * p + s * q, 1.0)
        return kl(q, m), np.log(some / m) + 1 - q * s / m
    return np.abs(p - q).sum() / 2, np.sign(q - p) / 2


def reference(teacher, student, how, ids=None):
    """Value and gradient by the student's logits, of one token; `teacher` holds probabilities."""
    q = softmax(student / how.temperature)
    place = np.arange(len(q))  # the outcome that each token belongs to
    p_out, q_out = teacher, q
    if ids is not None:
        ids = ids[ids >= 0]
        place = np.full(len(q), len(ids))
        place[ids] = np.arange(len(ids))
        rest = np.ones(len(q), bool)
        rest[ids] = False
        p_out, q_out = (
            np.append(teacher[ids], teacher[rest].sum()),
            np.append(q[ids], q[rest].sum()),
        )
        if how.tail == "renormalise":
            p_out = np.append(teacher[ids] / teacher[ids].sum(), 0) if len(ids) else np.ones(1)
        if how.tail == "both":
            if not len(ids):
                return 0.0, np.zeros(len(q))
            q = np.where(rest, 0, q) / q[ids].sum()
            p_out, q_out = np.append(teacher[ids] / teacher[ids].sum(), 0), np.append(q[ids], 0)
    value, slope = value_and_slope(p_out, q_out, how)
    gradient = q * (slope[place] - (q_out * slope).sum()) / how.temperature
    scale = 1 if how.kind == "tvd" else how.temperature**2
    return value * scale, gradient * scale


def found(teacher, student, how):
    """Values and gradients of ours."""
    logits = torch.tensor(student, requires_grad=True)
    values = divergence(teacher, logits, how)
    values.sum().backward()
    return values.detach().double().numpy(), logits.grad.double().numpy()


def assert_same(got, want, how, tolerance=1e-6):
    """Within the tolerance, of one nat (times T^2) or of the largest value where that is more.

    A gradient is a difference of numbers as large as the value, so it cannot be had closer.
    """
    values, gradients = (np.array(x) for x in zip(*want, strict=True))
    scale = max(1.0, how.temperature**2, values.max(initial=0))
    assert np.abs(got[0] - values).max() <= tolerance * scale
    assert np.abs(got[1] - gradients).max() <= tolerance * scale


def stored(z, k, how, rng, unfilled=0.0):
    """What a label set holds of float32 logits: ids in any order, raw logits, logsumexp(z / T)."""
    ids = np.argsort(-z, -1)[:, :k].copy()
    ids = rng.permuted(ids, axis=-1)
    logits = np.take_along_axis(z, ids, -1)
    ids[rng.random(ids.shape) < unfilled] = -1
    lse = np.log(np.exp(z.astype(np.float64) / how.temperature).sum(-1))
    return ids, np.where(ids < 0, np.nan, logits).astype(np.float32), lse


def the_top_k(ids, logits, lse, how):
    return top_k(torch.tensor(ids), torch.tensor(logits), torch.tensor(lse), how.temperature)


SETTINGS = st.builds(
    dict,
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 4),
    vocabulary=st.integers(2, 60),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    spread=st.sampled_from([0.3, 2.0, 6.0]),
    beta=st.sampled_from([0.1, 0.5, 0.9]),
    skew=st.sampled_from([0.0, 0.1, 0.7]),
)


def draw(case, kind, tail="bucket"):
    if kind == "skewed_reverse_kl" and tail == "renormalise":
        case = {**case, "skew": max(case["skew"], 0.1)}
    how = Divergence(kind, case["temperature"], case["beta"], case["skew"], tail)
    rng = np.random.default_rng(case["seed"])
    shape = (case["tokens"], case["vocabulary"])
    z_p, z_q = (rng.normal(0, case["spread"], shape).astype(np.float32) for _ in range(2))
    return how, rng, z_p, z_q


# --- equal to the reference -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(SETTINGS)
def test_dense_equals_the_reference(kind, case):
    how, _, z_p, z_q = draw(case, kind)
    p = [softmax(z.astype(np.float64) / how.temperature) for z in z_p]
    want = [reference(a, z.astype(np.float64), how) for a, z in zip(p, z_q, strict=True)]
    assert_same(found(dense(torch.tensor(z_p), how.temperature), z_q, how), want, how)
    # In float64 it is the same to the last digits, so what is left above is rounding alone.
    wide = found(dense(torch.tensor(z_p).double(), how.temperature), z_q.astype(np.float64), how)
    assert_same(wide, want, how, 1e-12)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", KINDS)
@given(case=SETTINGS, k=st.integers(1, 60), unfilled=st.sampled_from([0.0, 0.3, 1.0]))
def test_top_k_equals_the_reference(kind, tail, case, k, unfilled):
    if kind == "reverse_kl" and tail == "renormalise":
        return
    how, rng, z_p, z_q = draw(case, kind, tail)
    ids, logits, lse = stored(z_p, min(k, case["vocabulary"]), how, rng, unfilled)
    p = [softmax(z.astype(np.float64) / how.temperature) for z in z_p]
    if "reverse" in kind and tail == "bucket":
        # 1 minus the rest must have digits left where its logarithm counts, as documented.
        rests = [np.delete(a, i[i >= 0]).sum() for a, i in zip(p, ids, strict=True)]
        assume(all(rest == 0 or rest > 1e-8 for rest in rests))
    want = [reference(a, z.astype(np.float64), how, i) for a, z, i in zip(p, z_q, ids, strict=True)]
    teacher = the_top_k(ids, logits, lse, how)
    # In float64 it is the same to the last digits, so what is left in float32 is rounding alone:
    # a logit over T that is large has few digits behind the point, and so has its logarithm.
    assert_same(found(teacher, z_q.astype(np.float64), how), want, how, 1e-9)
    last_digit = np.finfo(np.float32).eps * np.abs(z_q).max() / how.temperature
    assert_same(found(teacher, z_q, how), want, how, max(1e-6, last_digit))


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    per_token=st.booleans(),
    unfilled=st.sampled_from([0.0, 0.4]),
)
def test_a_mean_of_teachers_is_one_over_the_union_of_their_top_k(seed, sizes, per_token, unfilled):
    rng = np.random.default_rng(seed)
    how, tokens, vocabulary = Divergence(temperature=2.0), 3, 8
    weights = rng.dirichlet(np.ones(len(sizes)), tokens if per_token else None)
    if len(sizes) > 1 and rng.random() > 0.7:
        weights[..., 0] = 0  # a teacher that is not asked
        weights /= weights.sum(-1, keepdims=True)
    each = np.broadcast_to(weights, (tokens, len(sizes)))
    teachers, want = [], np.zeros((tokens, vocabulary))
    for i, k in enumerate(sizes):
        z = rng.normal(0, 2, (tokens, vocabulary)).astype(np.float32)
        ids, logits, lse = stored(z, k, how, rng, unfilled)
        teachers.append(the_top_k(ids, logits, lse, how))
        for t, j in zip(*np.nonzero(ids >= 0), strict=True):
            p = softmax(z[t].astype(np.float64) / how.temperature)
            want[t, ids[t, j]] += each[t, i] * p[ids[t, j]]
    mixed = mix_top_k(teachers, torch.tensor(weights))
    got = np.zeros((tokens, vocabulary))
    for t in range(tokens):
        filled = mixed.ids[t][mixed.ids[t] >= 0].tolist()
        assert len(set(filled)) == len(filled)  # each token once
        got[t, filled] = mixed.log_probs[t][mixed.ids[t] >= 0].exp().numpy()
    assert np.abs(got - want).max() < 1e-6
    # What comes out goes in: the divergence from it is that from the same numbers put by hand.
    z_q = rng.normal(0, 2, (tokens, vocabulary)).astype(np.float32)
    by_hand = []
    for t in range(tokens):
        ids = np.flatnonzero(want[t])
        rest = np.setdiff1d(np.arange(vocabulary), ids)
        p = want[t].copy()
        p[rest] = (1 - p.sum()) / max(len(rest), 1)
        by_hand.append(reference(p, z_q[t].astype(np.float64), how, ids))
    assert_same(found(mixed, z_q, how), by_hand, how)


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 3), per_token=st.booleans())
def test_a_mean_of_dense_teachers(seed, number, per_token):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 4, (number, 5, 30)).astype(np.float32)
    weights = rng.dirichlet(np.ones(number), 5 if per_token else None)
    each = np.broadcast_to(weights, (5, number))
    want = sum(each[:, i, None] * np.array([softmax(r.astype(float)) for r in z[i]])
               for i in range(number))  # fmt: skip
    mixed = mix_dense([dense(torch.tensor(x), 1.0) for x in z], torch.tensor(weights))
    assert np.abs(mixed.exp().numpy() - want).max() < 1e-6


# --- what must hold of each -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(SETTINGS)
def test_never_negative_and_a_bucket_never_more_than_the_truth(kind, case):
    """In float64, where both sides keep their digits: the bound itself, not its rounding."""
    how, rng, z_p, z_q = draw(case, kind)
    teacher, student = (torch.tensor(z).double() for z in (z_p, z_q))
    true = divergence(dense(teacher, how.temperature), student, how)
    k = int(rng.integers(1, case["vocabulary"] + 1))
    lower = divergence(the_top_k(*stored(z_p, k, how, rng), how), student, how)
    if "reverse" in kind and k < case["vocabulary"]:
        # These divide by the teacher's tail, 1 minus a sum, which must have digits left.
        tail = dense(teacher, how.temperature).exp().sort(-1).values[:, : case["vocabulary"] - k]
        assume(bool((tail.sum(-1) > 1e-6).all()))
    slack = 1e-9 * (max(1, how.temperature**2) + true)
    assert (true >= -slack).all() and (lower >= -slack).all()
    assert (lower <= true + slack).all()
    if k == case["vocabulary"]:
        assert ((lower - true).abs() <= slack).all()


@pytest.mark.parametrize("kind", KINDS)
@given(SETTINGS)
def test_a_student_like_its_teacher_has_no_loss_and_no_gradient(kind, case):
    how, rng, z, _ = draw(case, kind)
    slack = 1e-6 * max(1, how.temperature**2)
    for value in found(dense(torch.tensor(z), how.temperature), z, how):
        assert np.abs(value).max() <= slack
    k = int(rng.integers(1, case["vocabulary"] + 1))
    value, gradient = found(the_top_k(*stored(z, k, how, rng), how), z, how)
    assert np.abs(value).max() <= slack
    if kind != "tvd":  # which has a kink there: rounding decides the side
        assert np.abs(gradient).max() <= slack


@pytest.mark.parametrize("kind", KINDS)
@given(SETTINGS)
def test_a_logsumexp_in_float32_costs_a_rounding(kind, case):
    how, rng, z_p, z_q = draw(case, kind)
    ids, logits, lse = stored(z_p, 1, how, rng)
    exact = found(the_top_k(ids, logits, lse, how), z_q, how)
    rounded = found(the_top_k(ids, logits, lse.astype(np.float32), how), z_q, how)
    for mine, theirs in zip(rounded, exact, strict=True):
        assert np.isfinite(mine).all()  # also where float32 cannot tell the tail from nothing
        if "reverse" not in kind:  # which look at the logarithm of the teacher's tail
            assert np.abs(mine - theirs).max() <= 1e-4 * max(1, how.temperature**2)


def pair(seed=0, vocabulary=20):
    z = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (2, 4, vocabulary)))
    return z[0], z[1]


def test_jsd_is_symmetric_at_one_half_and_goes_to_the_kls_at_the_ends():
    a, b = pair()
    half = Divergence("jsd")
    torch.testing.assert_close(divergence(dense(a, 1), b, half), divergence(dense(b, 1), a, half))
    small = 1e-6
    for beta, kind in ((small, "forward_kl"), (1 - small, "reverse_kl")):
        limit = divergence(dense(a, 1), b, Divergence("jsd", beta=beta)) / small
        want = divergence(dense(a, 1), b, Divergence(kind))
        torch.testing.assert_close(limit, want, rtol=1e-3, atol=1e-3)


def test_skewed_without_skew_is_the_kl_itself():
    a, b = pair()
    for kind in ("forward_kl", "reverse_kl"):
        skewed = {"forward_kl": "skewed_kl", "reverse_kl": "skewed_reverse_kl"}[kind]
        got = divergence(dense(a, 1), b, Divergence(skewed, skew=0))
        torch.testing.assert_close(got, divergence(dense(a, 1), b, Divergence(kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_t_squared_keeps_gradients_of_one_size(kind):
    a, b = pair()
    sizes = [np.abs(found(dense(a, t), b.numpy(), Divergence(kind, t))[1]).sum() for t in (50, 100)]
    if kind == "tvd":
        assert 0.45 < sizes[1] / sizes[0] < 0.55  # without T^2 it falls with 1 / T, as documented
    else:
        assert 0.95 < sizes[1] / sizes[0] < 1.05


def test_top_1_renormalised_on_both_sides_says_nothing():
    a, b = pair()
    ids, logits, lse = stored(a.numpy(), 1, Divergence(), np.random.default_rng(0))
    value, gradient = found(
        the_top_k(ids, logits, lse, Divergence()), b.numpy(), Divergence(tail="both")
    )
    assert (value == 0).all() and (gradient == 0).all()


# --- hostile numbers ------------------------------------------------------------------------------

FAR = {
    "forward_kl": 2e4,
    "reverse_kl": 2e4,
    "jsd": np.log(2),
    "skewed_kl": -np.log(0.1),
    "skewed_reverse_kl": -np.log(0.1),
    "tvd": 1.0,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_are_far_apart(kind, dtype):
    how = Divergence(kind)
    z_p = np.array([[1e4, 0, 0, -1e4]], dtype)
    for teacher in (
        dense(torch.tensor(z_p), 1.0),
        top_k(torch.tensor([[3, 0]]), torch.tensor(z_p[:, [3, 0]]), torch.tensor([1e4]), 1.0),
    ):
        value, gradient = found(teacher, z_p[:, ::-1].copy(), how)
        assert value[0] == pytest.approx(FAR[kind], rel=1e-6)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_masked_on_both_sides_are_left_out(kind):
    a, b = pair()
    masked = [torch.cat([x, torch.full((4, 3), -torch.inf)], 1).numpy() for x in (a, b)]
    value, gradient = found(dense(torch.tensor(masked[0]), 1.0), masked[1], Divergence(kind))
    want = found(dense(a, 1.0), b.numpy(), Divergence(kind))
    np.testing.assert_allclose(value, want[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[:, :20], want[1], atol=1e-12)
    assert (gradient[:, 20:] == 0).all()


def test_tokens_masked_on_one_side_are_infinitely_far_where_they_are():
    a, b = pair()
    cut = torch.cat([a[:, :1] * 0 - torch.inf, a[:, 1:]], 1)
    for kind, by_teacher, by_student in [
        ("forward_kl", False, True),
        ("reverse_kl", True, False),
        ("jsd", False, False),
        ("tvd", False, False),
        ("skewed_kl", False, False),
        ("skewed_reverse_kl", False, False),
    ]:
        how = Divergence(kind)
        assert bool(divergence(dense(cut, 1), b, how).isinf().all()) == by_teacher
        assert bool(divergence(dense(b, 1), cut, how).isinf().all()) == by_student


def test_nan_is_not_hidden():
    a, b = pair()
    b[2, 3] = torch.nan
    value = divergence(dense(a, 1), b, Divergence())
    assert value.isnan().tolist() == [False, False, True, False]


def test_bfloat16_logits_are_computed_in_float32():
    a, b = (x.bfloat16() for x in pair())
    got = divergence(dense(a, 2.0), b, Divergence(temperature=2.0))
    assert got.dtype == torch.float32
    want = divergence(dense(a.double(), 2.0), b.double(), Divergence(temperature=2.0))
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "foward_kl"}, "did you mean 'forward_kl'"),
        ({"tail": "none"}, "no divergence"),
        ({"kind": "reverse_kl", "tail": "renormalise"}, "infinite"),
        ({"kind": "skewed_reverse_kl", "skew": 0, "tail": "renormalise"}, "infinite"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"kind": "jsd", "beta": 0.0}, "beta is 0"),
        ({"skew": 1.0}, "skew is 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Divergence(**settings)


def test_the_divergences_are_those_of_the_config():
    config_words = get_args(SoftLabels.model_fields["divergence"].annotation)
    assert list(DIVERGENCES) == list(get_args(Kind)) == list(config_words) == KINDS
