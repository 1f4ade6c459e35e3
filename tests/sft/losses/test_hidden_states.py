"""Intermediate layers of two models: what is taken of them, and projections that come and go."""

import math

import pytest
import torch

from sft.losses.hidden_states import (
    NAME,
    HiddenStateLoss,
    HiddenStates,
    document_numbers,
    strip,
    token_weights,
)
from sft.training.distributed import save_projections
from synth.core.errors import UserError
from tests.helpers.dense_reference import relation_reference
from tests.helpers.training.hidden_state_runs import batch, run, tiny


@pytest.mark.parametrize("positions", ["labelled", "all"])
def test_the_loss_of_two_models_equals_what_their_states_say(positions):
    student, teacher = tiny(3, 16).double(), tiny(6, 24).double()
    config = HiddenStates(
        layers=[(1, 2), (2, 4)], embeddings=True, mse=0.5, relative=False, cosine=2.0, relations=3.0,
        relation_layers=(2, 5), relation_heads=2, positions=positions,
    )  # fmt: skip
    hidden = HiddenStateLoss(config, student, teacher)
    hidden.register(student)
    inputs, labels = batch()
    loss = run(hidden, student, teacher, inputs, labels)
    with torch.no_grad():
        mine = student(**inputs, output_hidden_states=True).hidden_states
        theirs = teacher(**inputs, output_hidden_states=True).hidden_states
    documents = document_numbers(labels.shape, inputs["attention_mask"])
    weights = token_weights(labels, documents, positions).double()
    reference = 0.0
    for (s, t), matrix in zip(((0, 0), (1, 2), (2, 4)), student.get_submodule(NAME), strict=True):
        mapped = mine[s] @ matrix.detach().double().T
        distance = (mapped - theirs[t]).square().mean(-1)
        angle = 1 - torch.nn.functional.cosine_similarity(mapped, theirs[t], dim=-1)
        reference += ((0.5 * distance + 2 * angle) * weights).sum() / 3
    for kind in "qkv":
        made = []
        for model, states, layer in ((student, mine, 2), (teacher, theirs, 5)):
            block = model.model.layers[layer - 1]
            inside = block.input_layernorm(states[layer - 1])
            made.append(getattr(block.self_attn, f"{kind}_proj")(inside).detach())
        reference += 3 * relation_reference(*made, 2, weights, documents)
    assert abs(float(loss.detach() - reference)) < 1e-6 * float(reference)


def test_the_last_layer_is_taken_before_the_final_norm():
    student, teacher = tiny(2, 16), tiny(2, 16)
    teacher.model.norm.weight.data.fill_(100.0)
    teacher.load_state_dict(
        {**student.state_dict(), "model.norm.weight": teacher.model.norm.weight}
    )
    hidden = HiddenStateLoss(HiddenStates(layers="uniform", cosine=1.0), student, teacher)
    assert hidden.projections is None
    assert float(run(hidden, student, teacher, *batch()).detach()) < 1e-4


def test_batches_in_parts_and_packed_rows_give_the_same_loss():
    student, teacher = tiny(3, 16), tiny(6, 24)
    config = dict(layers="uniform", cosine=1.0, relations=1.0)
    inputs, labels = batch()
    for positions in ("labelled", "all"):
        hidden = HiddenStateLoss(HiddenStates(**config, positions=positions), student, teacher)
        whole = float(run(hidden, student, teacher, inputs, labels))
        parts = 0.0
        for i in range(3):
            one = {key: value[i : i + 1] for key, value in inputs.items()}
            parts += float(run(hidden, student, teacher, one, labels[i : i + 1]))
        assert math.isclose(parts, whole, rel_tol=1e-5)
        keep = inputs["attention_mask"].bool()
        place = torch.arange(9).expand(3, -1)[keep][None]
        packed = dict(input_ids=inputs["input_ids"][keep][None])
        row = run(hidden, student, teacher, packed, labels[keep][None], position_ids=place)
        assert math.isclose(float(row), whole, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("family", "options"),
    [("phi3", {}), ("qwen3", dict(head_dim=6)), ("gemma3_text", dict(head_dim=6))],
)
def test_queries_keys_and_values_are_found_in_other_families(family, options):
    student, teacher = tiny(2, 16), tiny(3, 24, family, **options)
    hidden = HiddenStateLoss(HiddenStates(mse=0, relations=1.0), student, teacher)
    assert not hidden.pairs
    seen = {}
    inputs, labels = batch()
    with hidden.capture():
        student(**inputs)
        teacher(**inputs)
    seen = dict(hidden._captured)
    shapes = [seen["teacher", kind, 3].shape[-1] for kind in "qkv"]
    assert shapes == [24, 12, 12]
    if family == "phi3":
        attention = teacher.model.layers[2].self_attn
        made = []
        attention.qkv_proj.register_forward_hook(lambda m, a, out: made.append(out))
        teacher(**inputs)
        assert torch.equal(torch.cat([seen["teacher", kind, 3] for kind in "qkv"], -1), made[0])
    assert float(hidden.loss(labels, inputs["attention_mask"])) > 0


def test_losses_are_computed_in_float32_under_autocast():
    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = HiddenStateLoss(HiddenStates(cosine=1.0, relations=1.0), student, teacher)
    inputs, labels = batch()
    exact = run(hidden, student, teacher, inputs, labels)
    with hidden.capture():
        student(**inputs)
        teacher(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hidden.loss(labels, inputs["attention_mask"]), exact)


def test_a_step_lowers_each_loss():
    for losses in (dict(mse=1.0), dict(mse=0, cosine=1.0), dict(mse=0, relations=1.0)):
        student, teacher = tiny(2, 16), tiny(4, 24)
        hidden = HiddenStateLoss(HiddenStates(**losses, projection="identity"), student, teacher)
        hidden.register(student)
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
        curve = []
        for _ in range(8):
            loss = run(hidden, student, teacher, *batch())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        assert curve[-1] < 0.9 * curve[0], losses


def test_only_the_wanted_layers_are_kept_and_hooks_go():
    student, teacher = tiny(3, 16), tiny(6, 24)
    hidden = HiddenStateLoss(HiddenStates(layers=[(2, 4)], relations=1.0), student, teacher)
    inputs, labels = batch()
    with pytest.raises(ZeroDivisionError), hidden.capture():
        student(**inputs)
        teacher(**inputs)
        assert sorted(hidden._captured) == [
            ("student", "k", 3), ("student", "q", 3), ("student", "state", 2), ("student", "v", 3),
            ("teacher", "k", 6), ("teacher", "q", 6), ("teacher", "state", 4), ("teacher", "v", 6),
        ]  # fmt: skip
        1 / 0  # noqa: B018
    hidden.loss(labels, inputs["attention_mask"])
    student(**inputs)
    teacher(**inputs)
    assert not hidden._captured
    for model in (student, teacher):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- projections ----------------------------------------------------------------------------------


def test_projections_start_as_said():
    student, teacher = tiny(2, 16), tiny(4, 24)
    made = HiddenStateLoss(HiddenStates(), student, teacher).projections
    assert [tuple(m.shape) for m in made] == [(24, 16)] * 2
    for matrix in made:
        assert torch.allclose(matrix.T @ matrix, torch.eye(16), atol=1e-5)
    again = HiddenStateLoss(HiddenStates(), student, teacher).projections
    other = HiddenStateLoss(HiddenStates(), student, teacher, seed=1).projections
    assert torch.equal(made[0], again[0])
    assert not torch.equal(made[0], other[0])
    assert not torch.equal(made[0], made[1])
    plain = HiddenStateLoss(HiddenStates(projection="identity"), student, teacher).projections
    assert torch.equal(plain[0], torch.eye(24, 16))


def test_a_saved_student_has_nothing_of_the_projections(tmp_path):
    from transformers import AutoModel, AutoModelForCausalLM

    student, teacher = tiny(2, 16), tiny(4, 24)
    before = set(student.state_dict())
    hidden = HiddenStateLoss(HiddenStates(), student, teacher)
    hidden.register(student)
    assert set(student.state_dict()) - before == {f"{NAME}.0", f"{NAME}.1"}
    assert strip(student) is student
    assert set(student.state_dict()) == before
    strip(student)  # there is nothing left to take
    student.save_pretrained(tmp_path)
    for kind in (AutoModel, AutoModelForCausalLM):
        loaded, said = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not said["missing_keys"]
        assert not any("hidden" in key for key in said["unexpected_keys"])
        assert not any("hidden_projections" in key for key in loaded.state_dict())


def test_adapters_freeze_the_base_and_leave_the_projections_free(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = HiddenStateLoss(HiddenStates(relations=1.0), student, teacher)
    hidden.register(student)  # too early; adapters freeze it and the second call sets it free
    wrapped = get_peft_model(
        student, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    hidden.register(wrapped)
    free = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or NAME in name for name in free)
    assert sum(NAME in name for name in free) == 2
    assert not any("lora_" in name for name in free if NAME in name)
    start = {name: weight.detach().clone() for name, weight in wrapped.named_parameters()}
    optimizer = torch.optim.SGD((p for p in wrapped.parameters() if p.requires_grad), lr=0.1)
    for _ in range(2):  # B of the adapters is 0 at first, and A learns nothing until it is not
        run(hidden, wrapped, teacher, *batch()).backward()
        optimizer.step()
    moved = {n for n, p in wrapped.named_parameters() if not torch.equal(p, start[n])}
    assert all("lora_" in name or NAME in name for name in moved)
    assert {name for name in free if NAME in name} <= moved
    # The upper layer's adapters of what comes after the last state learn nothing; the rest does.
    assert sum("lora_" in name for name in moved) > 20

    save_projections(hidden, tmp_path, True)
    other = HiddenStateLoss(HiddenStates(relations=1.0), tiny(2, 16), teacher, seed=5)
    other.load(tmp_path)
    assert all(map(torch.equal, other.projections, hidden.projections))
    strip(wrapped)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "student")
    loaded, said = AutoModelForCausalLM.from_pretrained(
        tmp_path / "student", output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    ids = batch()[0]["input_ids"]
    assert torch.allclose(
        loaded(input_ids=ids).logits, merged.eval()(input_ids=ids).logits, atol=1e-5
    )


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_changes_no_gradient(lora):
    from peft import LoraConfig, get_peft_model

    grads = []
    for checkpointing in (False, True):
        student, teacher = tiny(2, 16), tiny(4, 24)
        hidden = HiddenStateLoss(HiddenStates(cosine=1.0, relations=1.0), student, teacher)
        if lora:
            torch.manual_seed(0)
            adapters = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear")
            student = get_peft_model(student, adapters)
        hidden.register(student)
        if checkpointing:
            kwargs = {"use_reentrant": False}
            student.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        run(hidden, student, teacher, *batch()).backward()
        grads.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert any(NAME in name for name in grads[0])
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], atol=1e-6), name


def test_reentrant_checkpointing_is_refused():
    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = HiddenStateLoss(HiddenStates(), student, teacher)
    hidden.register(student)
    student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(UserError, match="must not be reentrant"):
        run(hidden, student, teacher, *batch())
    with torch.no_grad():
        assert run(hidden, student, teacher, *batch()) > 0  # an evaluation needs no gradient


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (dict(mse=0), "nothing to learn"),
        (dict(layers=[(1, 5)]), "the teacher has no layer 5"),
        (dict(relations=1, relation_layers=(3, 1)), "the student has no layer 3"),
        (dict(relations=1, relation_layers=(0, 1)), "the embeddings"),
        (
            dict(relations=1, relation_heads=3),
            r"3 does not divide .*\(8, 12, 16, 24\); these do: 1, 2, 4$",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(config, says):
    with pytest.raises(UserError, match=says):
        HiddenStateLoss(HiddenStates(**config), tiny(2, 16), tiny(4, 24))


def test_models_without_plain_queries_are_refused():
    with pytest.raises(UserError, match="GPTNeoXForCausalLM has no q_proj"):
        HiddenStateLoss(HiddenStates(relations=1), tiny(2, 16), tiny(2, 16, "gpt_neox"))
    gated = tiny(2, 16)
    gated.model.layers[1].self_attn.q_proj = torch.nn.Linear(16, 32)
    with pytest.raises(UserError, match="of the usual build"):
        HiddenStateLoss(HiddenStates(relations=1), gated, tiny(2, 16))


def test_a_teacher_that_saw_another_batch_is_refused():
    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = HiddenStateLoss(HiddenStates(), student, teacher)
    inputs, labels = batch()
    with hidden.capture():
        student(**inputs)
        teacher(input_ids=inputs["input_ids"][:, 1:])
    with pytest.raises(UserError, match="one tokenizer and the same batch"):
        hidden.loss(labels, inputs["attention_mask"])


def test_relation_heads_are_chosen_to_fit():
    # Widths 16, 8, 24 and 12: 4 divides them all, and the teacher has four heads.
    assert HiddenStateLoss(HiddenStates(relations=1), tiny(2, 16), tiny(4, 24)).relation_heads == 4
