"""One step of each method is the dense float64 computation of it: its loss and every gradient."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.encoding import IGNORED, Encoded
from sft.losses.hidden_states import HiddenStateLoss
from sft.losses.objective import PARTS, DistillationLoss, LossInputs, attach_loss, detach_loss
from sft.training.collator import collate
from synth.config.distillation import HiddenStates, SoftLabels, TeacherModel
from synth.config.train import Train
from tests.helpers import dense_reference as reference

V = 41
SIZE = {
    "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64,
}  # fmt: skip
KINDS = ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "tvd"]
# What is left of a loss that is summed in float32 over a few dozen tokens.
EXACT = 2e-6


def tiny(family="Llama", seed=0, scale=6.0, **more):
    """A model whose logits are far apart, in float64: what its own rounding does is not the loss's."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**{**SIZE, **more})
    model = getattr(transformers, f"{family}ForCausalLM")(config).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return model


def examples_of(seed, number, longest=9, vocabulary=V):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(number):
        length = int(torch.randint(2, longest + 1, (), generator=generator))
        ids = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        masked = torch.rand(length, generator=generator) < 0.4
        labels = [IGNORED if hide else token for hide, token in zip(masked, ids, strict=True)]
        labels[0] = IGNORED
        made.append(Encoded(ids, labels))
    made[0].labels[1] = made[0].input_ids[1]
    return made


def rows_of(examples, layout):
    if layout == "padded":
        return [[one] for one in examples]
    half = (len(examples) + 1) // 2
    return (
        [examples]
        if layout == "padding_free"
        else [r for r in (examples[:half], examples[half:]) if r]
    )


def batch_of(examples, layout):
    batch = collate(rows_of(examples, layout), layout, 0)
    return batch.pop("labels"), batch


def train_config(method="sft", teachers=1, **more):
    named = {f"t{i}": TeacherModel(model="x") for i in range(0 if method == "sft" else teachers)}
    return Train(method=method, teachers=named, **more)


def ours(student, examples, layout, objective, soft=(), weights=None):
    """Loss a label, parts as sums, and the gradient of every weight."""
    labels, inputs = batch_of(examples, layout)
    attach_loss(student, objective)
    try:
        found = student(**inputs, extra=LossInputs(labels, list(soft), weights))
    finally:
        detach_loss(student)
    number = int((labels[:, 1:] != IGNORED).sum())
    loss = found.pop("loss") / number
    weights = [w for w in student.parameters() if w.requires_grad]
    return loss, found, torch.autograd.grad(loss, weights, allow_unused=True)


def same(got, want_loss, want_sums, weights, bound=EXACT):
    loss, parts, slopes = got
    want = torch.autograd.grad(want_loss, weights, allow_unused=True)
    assert abs(loss.item() - want_loss.item()) <= bound * max(1, abs(want_loss.item()))
    for name in PARTS:
        wanted = float(torch.as_tensor(want_sums[name]).detach())
        assert abs(float(parts[name]) - wanted) <= bound * max(1, abs(wanted)), name
    for mine, theirs in zip(slopes, want, strict=True):
        if theirs is None:
            assert mine is None or not mine.abs().max()
            continue
        assert (mine - theirs).abs().max() <= bound * max(1, theirs.abs().max())


CASE = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "number": st.integers(1, 4),
        "layout": st.sampled_from(["padded", "padding_free", "packed"]),
    }
)


@settings(max_examples=20)
@given(CASE)
def test_sft(case):
    student = tiny(seed=case["seed"])
    config = train_config()
    examples = examples_of(case["seed"], case["number"])
    loss, sums, _ = reference.step(student, examples, config)
    got = ours(student, examples, case["layout"], DistillationLoss(config, student))
    same(got, loss, {**sums, "divergence": 0}, list(student.parameters()))


SOFT = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.3, 0.5, 1.0]),
        "temperature": st.sampled_from([1.0, 2.0, 4.0]),
        "divergence": st.sampled_from(KINDS),
    }
)


def exact(soft):
    """Rounding of weights and sums in float32, before it is times T^2."""
    return max(EXACT, 1e-6 * soft.temperature**2)


def parts_as_said(sums, soft):
    """A part that is not needed is not computed."""
    return {
        **sums,
        "cross_entropy": sums["cross_entropy"] if soft.alpha > 0 else 0.0,
        "divergence": sums["divergence"] if soft.alpha < 1 else 0.0,
    }


@settings(max_examples=30)
@given(CASE, SOFT, st.integers(1, 3), st.sampled_from(["none", "all", "each"]), st.integers(0, 6))
def test_soft_labels_of_teachers_in_memory(case, soft, number, weighed, padded_rows):
    soft = SoftLabels(**soft)
    seed = case["seed"]
    student = tiny(seed=seed, vocab_size=V + padded_rows)
    teachers = {
        f"t{i}": tiny(seed=seed + 1 + i, hidden_size=8 * (i + 1), vocab_size=V + i)
        for i in range(number)
    }
    examples = examples_of(seed, case["number"])
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(examples), number, generator=generator) + 0.01
    if weighed == "all":
        drawn = drawn[:1].expand(len(examples), -1)
    shares = [(row / row.sum()).double().tolist() for row in drawn]
    rows = torch.cat(
        [row.repeat(labelled(one), 1) for row, one in zip(drawn, examples, strict=True)]
    )
    config = train_config("soft_labels", number, soft_labels=soft)
    loss, sums, _ = reference.step(
        student,
        examples,
        config,
        list(teachers.values()),
        None if weighed == "none" else shares,
        shared=V,
    )
    objective = DistillationLoss(config, student, teachers, None, V)
    got = ours(
        student, examples, case["layout"], objective, (), None if weighed == "none" else rows
    )
    same(got, loss, parts_as_said(sums, soft), list(student.parameters()), exact(soft))


def labelled(example):
    return sum(label != IGNORED for label in example.labels[1:])


def top_of(teacher, example, k, temperature):
    """A teacher's top-k at the labelled tokens of one example, as a label set gives it."""
    with torch.no_grad():
        logits = teacher(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
    rows = [i for i, label in enumerate(example.labels[1:]) if label != IGNORED]
    top = logits[rows].topk(k, -1)
    return [top.indices, top.values, (logits[rows] / temperature).logsumexp(-1)]


@settings(max_examples=20)
@given(CASE, SOFT, st.integers(1, 2), st.sampled_from([1, 4, V]))
def test_stored_soft_labels(case, soft, number, k):
    soft = SoftLabels(**soft)
    seed = case["seed"]
    student = tiny(seed=seed)
    teachers = [tiny(seed=seed + 1 + i) for i in range(number)]
    examples = examples_of(seed, case["number"])
    config = train_config("soft_labels", number, soft_labels=soft)
    each = [[top_of(t, e, k, soft.temperature) for t in teachers] for e in examples]
    columns = [
        [torch.cat([one[place][part] for one in each]) for part in range(3)]
        for place in range(number)
    ]
    shares = [[1 / number] * number] * len(examples)
    loss, sums, _ = reference.step(
        student, examples, config, teachers, shares, stored=None if k == V else each
    )  # all of the vocabulary stored is the teacher in memory
    got = ours(student, examples, case["layout"], DistillationLoss(config, student), columns)
    # A divergence that divides by the teacher's tail, 1 minus a sum, has its rounding too.
    bound = 1e-5 if "reverse" in soft.divergence and k < V else exact(soft)
    same(got, loss, parts_as_said(sums, soft), list(student.parameters()), bound)


HIDDEN = st.fixed_dictionaries(
    {
        "output": st.sampled_from([0.0, 0.5, 1.0]),
        "mse": st.sampled_from([0.0, 1.0]),
        "cosine": st.sampled_from([0.5, 1.0]),
        "relations": st.sampled_from([0.0, 0.7]),
        "relative": st.booleans(),
    }
)


@settings(max_examples=30)
@given(CASE, HIDDEN, st.none() | SOFT, st.sampled_from([8, 16, 24]))
def test_hidden_states_with_hard_and_soft_labels(case, how, soft, width):
    seed = case["seed"]
    soft = SoftLabels(**soft) if soft else None
    config = train_config(
        "hidden_states", hidden_states=HiddenStates(**how), soft_labels=soft, layout=case["layout"]
    )
    student = tiny(seed=seed, scale=3.0)
    teacher = tiny(seed=seed + 1, hidden_size=width, num_hidden_layers=3, scale=3.0)
    hidden = HiddenStateLoss(config.hidden_states, student, teacher, seed)
    hidden.register(student)
    examples = examples_of(seed, case["number"])
    heads = hidden.relation_heads if how["relations"] else 1
    loss, sums, _ = reference.step(
        student, examples, config, [teacher],
        hidden=(hidden.pairs, hidden.projections, heads, 0),
    )  # fmt: skip
    objective = DistillationLoss(config, student, {"t0": teacher}, hidden)
    got = ours(student, examples, case["layout"], objective)
    wanted = sums if soft is None else parts_as_said(sums, soft)
    same(
        got, loss, wanted if soft else {**wanted, "divergence": 0}, list(student.parameters()), 1e-5
    )


# Families whose logits are not their output layer's alone.
BENT = {
    "Gemma2": {"final_logit_softcapping": 5.0},
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "Phi": {"partial_rotary_factor": 0.5},  # a bias in the output layer
}


@pytest.mark.parametrize("role", ["student", "teacher", "both"])
@pytest.mark.parametrize("family", BENT)
def test_a_model_that_scales_or_caps_its_logits(family, role):
    models = []
    for place, who in enumerate(("student", "teacher")):
        models.append(
            tiny(family, place, **BENT[family]) if role in (who, "both") else tiny(seed=place)
        )
    student, teacher = models
    config = train_config("soft_labels", soft_labels=SoftLabels(divergence="jsd"), layout="packed")
    examples = examples_of(3, 4)
    loss, sums, _ = reference.step(student, examples, config, [teacher])
    objective = DistillationLoss(config, student, {"t0": teacher})
    got = ours(student, examples, "packed", objective)
    same(got, loss, sums, list(student.parameters()))
    bare = reference.step(student, examples, train_config())[0]
    got = ours(student, examples, "padded", DistillationLoss(train_config(), student))
    same((got[0], {**got[1]}, got[2]), bare, {**sums, "divergence": 0}, list(student.parameters()))


@pytest.mark.parametrize("method", ["sft", "soft_labels", "hidden_states"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_in_float32_the_whole_step_is_the_same_to_what_float32_gives(method, layout):
    """The student's own forward and backward pass round too: 1e-5 of the largest gradient."""
    student, teacher = tiny(scale=3.0), tiny(seed=1, hidden_size=24, scale=3.0)
    more = {}
    if method != "sft":
        more["soft_labels"] = SoftLabels()
    if method == "hidden_states":
        more["hidden_states"] = HiddenStates(cosine=0.5, relations=0.3)
    config = train_config(method, layout=layout, **more)
    examples = examples_of(5, 4)
    hidden = None
    if method == "hidden_states":
        hidden = HiddenStateLoss(config.hidden_states, student, teacher, 0)
        hidden.register(student)
    parts = (hidden.pairs, hidden.projections, hidden.relation_heads, 0) if hidden else None
    loss, _, _ = reference.step(student, examples, config, [teacher], hidden=parts)
    want = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    student.float(), teacher.float()
    teachers = {} if method == "sft" else {"t0": teacher}
    got, _, slopes = ours(
        student, examples, layout, DistillationLoss(config, student, teachers, hidden)
    )
    assert got.item() == pytest.approx(loss.item(), rel=3e-6)
    largest = max(slope.abs().max() for slope in want if slope is not None)
    for mine, theirs in zip(slopes, want, strict=True):
        if theirs is not None:
            assert (mine - theirs).abs().max() <= 1e-5 * largest


def test_the_student_is_itself_again_when_the_loss_is_taken_off():
    student = tiny()
    before = student(input_ids=torch.tensor([[1, 2, 3]])).logits
    objective = DistillationLoss(train_config(), student)
    attach_loss(student, objective)
    assert torch.equal(student(input_ids=torch.tensor([[1, 2, 3]])).logits, before)
    detach_loss(student)
    assert "forward" not in vars(student)
