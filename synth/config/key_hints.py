"""Says where an unknown key belongs: names of other tools, and keys at the wrong level."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from synth.core import plugins
from synth.core.errors import nearest

# What a user of TRL, transformers, vLLM, axolotl, LLaMA-Factory, Unsloth or OpenAI's API writes,
# and the key that it is here, or a sentence where it is none.
FOREIGN_KEYS = {
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "n_epochs": "train.epochs",
    "lr": "train.learning_rate",
    "learning_rate_multiplier": "train.learning_rate",
    "per_device_train_batch_size": "train.batch_size",
    "micro_batch_size": "train.batch_size",
    "train_batch_size": "train.batch_size",
    "per_device_eval_batch_size": "evaluate.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "lr_scheduler_type": "train.scheduler",
    "lr_scheduler": "train.scheduler",
    "warmup_steps": "train.warmup_ratio, a share of the steps",
    "max_seq_length": "train.max_length",
    "max_seq_len": "train.max_length",
    "sequence_len": "train.max_length",
    "cutoff_len": "train.max_length",
    "model_max_length": "train.max_length",
    "packing": "train.layout: packed",
    "sample_packing": "train.layout: packed",
    "padding_free": "train.layout: padding_free",
    "save_total_limit": "train.keep_checkpoints",
    "max_grad_norm": "train.max_grad_norm",
    "gradient_clipping": "train.max_grad_norm",
    "fp16": "train.bf16; fp16 is not offered",
    "use_liger_kernel": "train.liger",
    "use_liger": "train.liger",
    "lora_r": "train.lora.r",
    "lora_rank": "train.lora.r",
    "lora_alpha": "train.lora.alpha",
    "lora_dropout": "train.lora.dropout",
    "lora_target": "train.lora.target_modules",
    "lora_target_modules": "train.lora.target_modules",
    "lora_target_linear": "train.lora.target_modules: all-linear",
    "adapter": "train.lora",
    "peft_config": "train.lora",
    "load_in_4bit": "train.lora.quantization: 4bit",
    "load_in_8bit": "train.lora.quantization: 8bit",
    "attn_implementation": "student.attention",
    "flash_attention": "student.attention: flash_attention_2",
    "flash_attn": "student.attention: flash_attention_2",
    "rope_scaling": "student.rope.scaling",
    "rope_theta": "student.rope.theta",
    "base_model": "student.model",
    "model_name": "student.model",
    "model_name_or_path": "student.model",
    "student_model_name_or_path": "student.model",
    "torch_dtype": "student.dtype",
    "output_dir": "runs and name: a run lies in RUNS/NAME",
    "run_name": "name",
    "wandb_project": "train.report_to: [wandb]",
    "teacher_model": "teachers.NAME.model, or train.teachers.NAME.model for its logits",
    "teacher_model_name_or_path": "train.teachers.NAME.model",
    "lmbda": "train.method: on_policy, which learns from the student's answers alone",
    "datasets": "tasks.train (questions) or traces",
    "dataset": "tasks.train (questions) or traces",
    "dataset_name": "tasks.train (questions) or traces, with source: hub",
    "train_file": "tasks.train (questions) or traces, with path",
    "max_new_tokens": "generate.sampling.max_tokens",
    "max_completion_tokens": "generate.sampling.max_tokens",
    "max_output_tokens": "generate.sampling.max_tokens",
    "max_model_length": "teachers.NAME.max_model_len",
    "num_generations": "generate.samples.max",
    "num_return_sequences": "generate.samples.max",
    "num_samples": "generate.samples.max",
    "n": "generate.samples.max",
    "best_of": "generate.samples.max",
    "logprobs": "generate.sampling.top_logprobs",
    "min_p": "generate.sampling.extra.min_p",
    "presence_penalty": "generate.sampling.extra.presence_penalty",
    "frequency_penalty": "generate.sampling.extra.frequency_penalty",
    "repetition_penalty": "generate.sampling.extra.repetition_penalty",
    "stop_sequences": "generate.sampling.stop",
    "reasoning_effort": "generate.sampling.extra.reasoning_effort",
    "extra_body": "generate.sampling.extra",
    "tp": "teachers.NAME.tensor_parallel_size",
    "tp_size": "teachers.NAME.tensor_parallel_size",
    "tensor_parallel": "teachers.NAME.tensor_parallel_size",
    "dp_size": "teachers.NAME.data_parallel_size",
    "num_gpus": "teachers.NAME.tensor_parallel_size",
    "gpu_memory": "teachers.NAME.gpu_memory_utilization",
    "quantization": "train.lora.quantization, or teachers.NAME.engine.quantization for vLLM",
    "swap_space": "teachers.NAME.engine.swap_space",
    "max_num_seqs": "teachers.NAME.engine.max_num_seqs",
    "max_num_batched_tokens": "teachers.NAME.engine.max_num_batched_tokens",
    "api_base": "teachers.NAME.base_url",
    "api_url": "teachers.NAME.base_url",
    "endpoint": "teachers.NAME.base_url",
    "api_key": "teachers.NAME.api_key_env, the NAME of the variable that holds the key",
    "max_workers": "generate.concurrency",
    "num_workers": "generate.concurrency",
    "max_concurrency": "generate.concurrency",
    "max_concurrent_requests": "generate.concurrency",
    "requests_per_minute": "teachers.NAME.rpm",
    "max_requests_per_minute": "teachers.NAME.rpm",
    "max_tokens_per_minute": "teachers.NAME.tpm",
    "max_retries": "generate.retries",
    "timeout": "teachers.NAME.timeout_s",
    "system_prompt": "a turn of the prompt's template (generate.prompt.template)",
    "prompt_template": "generate.prompt.template",
    "prompt_column": "question, in the task source",
    "question_column": "question, in the task source",
    "input_column": "question, in the task source",
    "answer_column": "answer, in the task source",
    "output_column": "answer, in the task source",
    "test_size": "tasks.holdout",
    "val_set_size": "tasks.holdout",
    "eval_split": "tasks.holdout or tasks.eval",
    "max_samples": "limit, in the task source",
}
_PLACES_SHOWN = 3
_REPEATING = {"chain", "augment", "rewrite"}
_ANY = "NAME"  # stands for the name that a user chose
# Where plug-ins stand in a config, and the kind of each.
_PLUGIN_PLACES = {"teacher": ("teachers", _ANY), "task source": ("tasks", "train", "N")}


def key_hint(path: Sequence[str | int], known: Sequence[str], run: type[BaseModel]) -> str:
    """Returns what to say of an unknown key: where it belongs, or the nearest that is known there.

    `path` is its place in the config, `known` the keys that may stand there, `run` the model of a
    whole config.
    """
    key = str(path[-1])
    section = [str(step) for step in path[:-1]]
    places = _nearest_places(section, [p for p in _places(run) if p[-1] == key])
    if places and places[0][:1] == tuple(section[:1]):
        return _belongs(places)
    if (foreign := FOREIGN_KEYS.get(key)) is not None:
        return f"; here it is {_beside(section, foreign)}"
    if difflib.get_close_matches(key, known, n=1, cutoff=0.6):
        return nearest(key, known)
    if places:
        return _belongs(places)
    return nearest(key, known)


def _belongs(places: list[tuple[str, ...]]) -> str:
    named = [".".join(place) for place in places[:_PLACES_SHOWN]]
    return f"; it belongs to {' or '.join(named)}"


def _beside(section: list[str], foreign: str) -> str:
    """Returns the key alone where it stands in the same section, such as `max_tokens`."""
    parent, _, last = foreign.rpartition(".")
    is_key = re.fullmatch(r"[\w.]+", foreign) is not None
    same = is_key and section and section[-1:] == parent.split(".")[-1:]
    return ".".join([*section, last]) if same else foreign


def _nearest_places(section: list[str], places: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Returns the places that share the most steps with a section, the shortest first.

    Sections that repeat what another one has are named only to those who write in them.
    """
    places = [p for p in places if p[0] not in _REPEATING or p[:1] == tuple(section[:1])]

    def shared(place: tuple[str, ...]) -> int:
        same = (a == b or b in (_ANY, "N") for a, b in zip(section, place[:-1], strict=False))
        return next((i for i, equal in enumerate(same) if not equal), len(section))

    most = max(map(shared, places), default=0)
    nearest_ones = [place for place in places if shared(place) == most]
    return sorted(dict.fromkeys(nearest_ones), key=len)


def _places(run: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Yields the path of every key that a config may have."""
    yield from _keys_of(run, ())
    for kind, place in _PLUGIN_PLACES.items():
        for name in plugins.names(kind):
            for key in plugins.load(kind, name).Config.model_fields:
                yield (*place, key)


def _keys_of(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*path, name)
        for inner, steps in _models_in(field.annotation):
            yield from _keys_of(inner, (*path, name, *steps))


def _models_in(annotation: Any) -> Iterator[tuple[type[BaseModel], tuple[str, ...]]]:
    """Yields the models inside an annotation, each with the steps that lead to it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ()
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None:
        return
    if origin in (Union, types.UnionType):
        for argument in arguments:
            yield from _models_in(argument)
        return
    step = {dict: (_ANY,), list: ("N",)}.get(origin, ())
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    for argument in arguments[1:] if is_mapping else arguments:
        for inner, steps in _models_in(argument):
            yield inner, (*step, *steps)
