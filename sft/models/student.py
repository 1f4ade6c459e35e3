"""Models as a config asks for them: a student's layers, positions and attention; quantised weights.

A model's config is changed before the model is built, so that what is trained is what
`from_pretrained` builds from the saved folder.
"""

from __future__ import annotations

import importlib.util
import logging
from math import inf
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sft.models.layers import take
from synth.config.distillation import TeacherModel
from synth.config.train import Rope, Student, Train
from synth.core.errors import MissingPackage, UserError, nearest
from synth.core.models import load_config, load_model, loading, locate

# What a new scaling leaves of the rotation.
_KEPT = ("rope_theta", "partial_rotary_factor")
# Kinds of scaling whose frequencies depend on the window that the model had before.
_FROM_BEFORE = ("llama3", "longrope", "yarn")
# Kinds whose window is the one before times the factor, and no more.
_STRETCHED = ("linear", "yarn")
_FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}


def load_student(
    student: Student, quantization: str | None = None, device: str | None = None
) -> Any:
    """Loads the model that the section `student` asks for, in evaluation mode.

    Args:
        student: The section of the config.
        quantization: `4bit` or `8bit` weights, which adapters are trained over (QLoRA). 4bit is
            NF4 with double quantisation, computed in bfloat16 (Dettmers et al. 2023,
            arXiv 2305.14314, section 3). The output layer is not quantised.
        device: A torch device by name; None takes the GPU where there is one.

    Raises:
        UserError: No such model or device, or the model cannot have these layers, positions or
            attention.
        MissingPackage: Quantisation or attention needs a package that is not installed.
    """
    device = _device(device)
    options = _attention(student) | _quantization(quantization, device)
    if not options and student.layers is None and student.rope is None:
        return load_model(student.model, student.dtype, device, student.trust_remote_code)
    folder, gguf = locate(student.model)
    if gguf or student.layers is not None:
        # What from_pretrained cannot read from the files as it is to be.
        read = load_model(student.model, student.dtype, "cpu", student.trust_remote_code)
        if student.layers is not None:
            read = take(read, student.layers)
        if student.rope is not None:
            set_rope(read.config, student.rope)
        with loading(student.model):
            model = type(read).from_pretrained(
                None, config=read.config, state_dict=read.state_dict(), dtype=read.dtype, **options
            )
        model.generation_config = read.generation_config
    else:
        with loading(student.model):
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                config=_config(student),
                dtype=student.dtype,
                trust_remote_code=student.trust_remote_code,
                **options,
            )
    if not quantization:
        return model.to(torch.device(device)).eval()
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Without a gradient to compute, bitsandbytes 0.50 repacks weights for the CPU, and
            # gradients that are computed later are wrong.
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def load_teacher(teacher: TeacherModel) -> Any:
    """Loads a teacher whose logits or states are learned: frozen, in evaluation mode.

    Raises what `load_student` raises.
    """
    student = Student(
        model=teacher.model, dtype=teacher.dtype, trust_remote_code=teacher.trust_remote_code
    )
    device = None if teacher.device == "auto" else teacher.device
    return load_student(student, teacher.quantization, device).requires_grad_(False)


def window(student: Student) -> int | None:
    """Reads how many positions the student has, without its weights; None is no limit.

    Raises:
        UserError: No such model, or it cannot have these positions.
    """
    return window_of(_config(student))


def window_of(config: Any) -> int | None:
    """Returns how many positions a model of this config has; None is no limit."""
    text = config.get_text_config()
    positions: int | None = getattr(text, "max_position_embeddings", None)
    rope = _rope_of(text)
    if positions and rope and rope.get("rope_type") == "dynamic":
        # Its config has the window before; it stretches as the text grows.
        return int(positions * rope["factor"])
    return positions


def length_limit(student: Student, config: Train) -> int | None:
    """Returns the most tokens an example may have: `train.max_length`, or less by the window."""
    return least(config.max_length, window(student))


def least(*limits: int | None) -> int | None:
    """Returns the lowest of some limits; None is no limit."""
    return min((limit for limit in limits if limit), default=None)


def skeleton(student: Student, base: Any = None) -> Any:
    """Builds the model that `load_student` loads without its weights, on torch's meta device.

    `base` is the skeleton of the model that the student is made of, where that is none to load yet.

    Raises UserError as `load_student`.
    """
    with torch.device("meta"):
        if base is None:
            config = _config(student.model_copy(update={"rope": None}))
            with loading(student.model):
                base = AutoModelForCausalLM.from_config(
                    config, trust_remote_code=student.trust_remote_code
                )
        model = base if student.layers is None else take(base, student.layers)
    if student.rope is not None:
        set_rope(model.config, student.rope)
    return model


def lora(config: Train, model: Any) -> Any:
    """Translates the section `train.lora`, if there is one, for PEFT.

    Raises:
        UserError: No layer has a name that `target_modules` asks for.
    """
    if config.lora is None:
        return None
    from peft import LoraConfig

    if isinstance(config.lora.target_modules, list):
        layers = {name.rpartition(".")[2]: name for name, _ in model.named_modules() if name}
        for wanted in config.lora.target_modules:
            if wanted.rpartition(".")[2] not in layers:
                raise UserError(
                    f"train.lora.target_modules: the student has no layer {wanted!r}"
                    f"{nearest(wanted, layers)}"
                )
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        task_type="CAUSAL_LM",
    )


def no_adapters(error: ValueError) -> UserError:
    """Returns the error of layers that cannot have adapters, as PEFT says it."""
    return UserError(f"train.lora.target_modules: {error}")


def merged(student: Student, adapter: Path) -> Any:
    """Merges a saved adapter into the full-precision weights that its training started from.

    Adapters that were trained over quantised weights go into the weights as they were before:
    merged into the quantised ones they would be rounded away.
    """
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_student(student, device="cpu"), str(adapter))
    return model.merge_and_unload()


def set_rope(config: Any, rope: Rope) -> None:
    """Changes the rotary position embeddings in a model's config.

    Where layers of several kinds rotate differently (Gemma 3), those that see all of the text
    change; layers with a sliding window do not meet longer distances.

    Raises:
        UserError: The model has none, or the settings are wrong or do not fit together.
    """
    text = config.get_text_config()
    rotation = _rope_of(text)
    if not rotation:
        raise UserError(f"student.rope: {type(config).__name__} has no rotary position embeddings")
    before = rotation.get("original_max_position_embeddings", text.max_position_embeddings)
    if rope.scaling is not None:
        kept: dict[str, Any] = {key: rotation[key] for key in _KEPT if key in rotation}
        kind = _kind(rope.scaling)
        if kind in _FROM_BEFORE:
            kept["original_max_position_embeddings"] = before
        rotation.clear()
        rotation.update(kept | rope.scaling)
        _set_window(text, rope.scaling, rope, kind, before)
    elif rope.window is not None:
        text.max_position_embeddings = rope.window
    if rope.theta is not None:
        rotation["rope_theta"] = rope.theta
    _try_rotation(text, rotation)


def _rope_of(text: Any) -> dict[str, Any] | None:
    """The part of a config that says how layers rotate which see all of the text."""
    rotation: dict[str, Any] | None = getattr(text, "rope_parameters", None)
    if rotation and text.nested_rope_parameter_keys(rotation):
        return rotation.get("full_attention")
    return rotation or None


def _kind(scaling: dict[str, Any]) -> str:
    kinds = ["default", *ROPE_INIT_FUNCTIONS]
    kind = scaling.get("rope_type")
    if kind not in kinds:
        raise UserError(
            f"student.rope.scaling.rope_type: unknown kind {kind!r}{nearest(str(kind), kinds)}"
        )
    factor = scaling.get("factor", 1)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor < inf:
        raise UserError(f"student.rope.scaling.factor: expected a number from 1, got {factor!r}")
    return str(kind)


def _set_window(text: Any, scaling: dict[str, Any], rope: Rope, kind: str, before: int) -> None:
    """Sets the window that goes with a scaling."""
    reach = int(before * scaling.get("factor", 1))
    if kind == "dynamic":
        if rope.window not in (None, reach):
            raise UserError(
                f"student.rope.window: dynamic scaling gives {reach} positions, {before} times its "
                "factor; leave window out"
            )
        text.max_position_embeddings = before
        return
    if kind in _STRETCHED and (rope.window or 0) > reach and rope.theta is None:
        raise UserError(
            f"student.rope.window: {rope.window} positions are more than the {reach} that the "
            f"scaling gives ({before} times its factor); raise student.rope.scaling.factor"
        )
    text.max_position_embeddings = rope.window or max(reach, text.max_position_embeddings)


def _try_rotation(text: Any, rotation: dict[str, Any]) -> None:
    """Raises UserError where the model could not be built with these settings."""
    kind = rotation.get("rope_type", "default")
    try:
        text.standardize_rope_params()
        text.validate_rope()
        if kind in ROPE_INIT_FUNCTIONS:
            nested = rotation is not text.rope_parameters
            options = {"layer_type": "full_attention"} if nested else {}
            frequencies, _ = ROPE_INIT_FUNCTIONS[kind](text, "cpu", **options)
            if not frequencies.isfinite().all():
                raise ValueError("they give frequencies that are no numbers")
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise UserError(
            f"student.rope.scaling: {kind} cannot have these settings: {reason}"
        ) from error


def _config(student: Student) -> Any:
    """The student's config, its positions changed."""
    config = load_config(student.model, student.trust_remote_code)
    if student.rope is not None:
        set_rope(config, student.rope)
    return config


def _device(name: str | None) -> str:
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"no device is called {name!r}; expected cpu, cuda, cuda:1 ...") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(f"there is no device {name} here: {gpus} GPUs are visible")
    return name


def _attention(student: Student) -> dict[str, Any]:
    """What `from_pretrained` takes for `student.attention`."""
    attention = student.attention
    if attention is None:
        return {}
    if attention in _FLASH:
        if importlib.util.find_spec(_FLASH[attention]) is None:
            if attention == "flash_attention_2":
                raise MissingPackage("flash-attn", f"student.attention: {attention}")
            raise UserError(
                f"student.attention: {attention} needs the module {_FLASH[attention]}, which is "
                "built from FlashAttention's source"
            )
        if not torch.cuda.is_available():
            raise UserError(f"student.attention: {attention} needs a GPU, and none is visible")
    return {"attn_implementation": attention}


def _quantization(kind: str | None, device: str) -> dict[str, Any]:
    """What `from_pretrained` takes for weights in 4 or 8 bits."""
    if kind is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPackage("bitsandbytes", f"quantization: {kind}", extra="qlora")
    # On a CPU it remarks on every layer that is cast.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    options: dict[str, Any] = {"load_in_8bit": True}
    if kind == "4bit":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}
