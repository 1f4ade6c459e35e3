"""The parts of the config that go beyond text: teachers whose numbers are learned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from synth.config.base import Section

Dtype = Literal["float32", "bfloat16", "float16", "auto"]


class TeacherModel(Section):
    """A teacher whose logits or states the student learns from, loaded beside the student."""

    model: str = Field(
        description="Hub id, folder, .gguf file, package:NAME/FILE, or trained:NAME for a model "
        "that this config trains before (see chain)."
    )
    dtype: Dtype = Field("auto", description="Type in which the weights are loaded.")
    device: str = Field(
        "auto", description="Where it runs, such as cpu or cuda:1. auto: beside the student."
    )
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="Weights in 4 or 8 bits, by bitsandbytes."
    )
    weight: float = Field(1.0, ge=0, description="Its share among several teachers, in any scale.")
    trust_remote_code: bool = Field(
        False, description="Whether Python code that lies beside the weights may run."
    )


class SoftLabels(Section):
    """alpha * cross-entropy + (1 - alpha) * T^2 * divergence(teacher, student)."""

    alpha: float = Field(
        0.5, ge=0, le=1, description="Weight of the hard labels; 0 leaves soft ones alone."
    )
    temperature: float = Field(2.0, gt=0, description="T of both softmaxes in the divergence.")
    divergence: Literal[
        "forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "tvd"
    ] = Field("forward_kl", description="How far the student is from its teacher.")
    beta: float = Field(0.5, gt=0, lt=1, description="Weight of the teacher's side in jsd.")
    skew: float = Field(
        0.1, ge=0, lt=1, description="How much is mixed in by the skewed divergences."
    )
    tail: Literal["bucket", "renormalise", "both"] = Field(
        "bucket",
        description="What a stored top-k leaves out: one outcome more, nothing, or left out of the "
        "student too.",
    )
    weights: Literal["given", "producer", "accuracy"] = Field(
        "given",
        description="How several teachers are weighed: by their `weight`, each trace by the "
        "teacher that wrote it (same name in `teachers`), or by the accuracy measured on questions "
        "held out of the training.",
    )
    held_out: int = Field(
        64,
        ge=8,
        description="With weights: accuracy, how many training questions are set apart for it.",
    )


class HiddenStates(Section):
    """What the student learns from its teacher's intermediate layers."""

    teacher: str | None = Field(
        None, description="Which of `train.teachers`; not needed where there is one."
    )
    output: float = Field(
        1.0,
        ge=0,
        description="Weight of the loss at the output: cross-entropy, or what soft_labels says.",
    )
    layers: Literal["uniform", "skip", "last"] | list[tuple[int, int]] = Field(
        "uniform",
        description="Which layer of the student learns from which of the teacher's: by relative "
        "depth (uniform), the same without the last (skip), from those below the teacher's last "
        "(last), or pairs [student, teacher], counted from 1.",
    )
    embeddings: bool = Field(
        False, description="Whether the embeddings (layer 0) learn from the teacher's too."
    )
    positions: Literal["labelled", "all"] = Field(
        "labelled",
        description="Tokens whose states are learned: those that predict a token with loss, or "
        "all but padding.",
    )
    mse: float = Field(1.0, ge=0, description="Weight of the squared distance between states.")
    relative: bool = Field(
        True,
        description="Divides the squared distance by the teacher's own mean square at that token, "
        "so that layers with large states do not drown the others.",
    )
    cosine: float = Field(0.0, ge=0, description="Weight of 1 - cosine between states.")
    relations: float = Field(
        0.0, ge=0, description="Weight of MiniLMv2's relations among queries, keys and values."
    )
    relation_layers: tuple[int, int] | None = Field(
        None,
        description="The layers [student, teacher] whose relations are compared; null: the last "
        "of both.",
    )
    relation_heads: int | None = Field(
        None,
        ge=1,
        description="Heads into which queries, keys and values are cut for their relations. null: "
        "as many as the teacher has attention heads, or the nearest smaller number that divides "
        "all widths.",
    )
    projection: Literal["orthogonal", "identity"] = Field(
        "orthogonal",
        description="How the map from student to teacher states starts where widths differ.",
    )


class OnPolicy(Section):
    """The student answers, and learns at each of its tokens what its teacher would have said."""

    trainer: Literal["auto", "distillation", "gold"] = Field(
        "auto",
        description="What the loss compares. distillation: probabilities of the same tokens. gold: "
        "sorted ones of the same stretches of text, across tokenizers. auto: gold where the "
        "tokenizers differ.",
    )
    beta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="0: forward KL, 1: reverse KL, between: generalised JSD. Not used by gold.",
    )
    temperature: float = Field(1.0, gt=0, description="Of the student's sampling.")
    loss_temperature: float = Field(
        1.0, gt=0, description="T of both softmaxes in the loss. Not used by gold."
    )
    max_new_tokens: int = Field(512, ge=1, description="Longest answer of the student.")


class Label(Section):
    """Soft labels stored before training, so that no teacher is in memory while it trains."""

    k: int = Field(64, ge=1, description="Likeliest tokens kept at each position.")
    temperatures: list[float] | None = Field(
        None,
        min_length=1,
        description="T for which exact probabilities can be had later. null: 1 and the T of "
        "train.soft_labels.",
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="What the teacher reads the traces with. vllm gives prompt_logprobs.",
    )
    batch_tokens: int = Field(
        4096, ge=1, description="Most tokens the teacher reads at a time, padding included."
    )
    engine_options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="Passed to vllm.LLM, such as max_model_len."
    )

    @model_validator(mode="after")
    def _positive(self) -> Label:
        if self.temperatures and min(self.temperatures) <= 0:
            raise ValueError("temperatures: expected numbers above 0")
        return self
