"""The config sections `student` and `train`: which model is trained, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    """A section of the config: an unknown key is an error, not silence."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Student(_Section):
    """The model that is trained."""

    model: str = Field(
        description="Hub id, folder, .gguf file, or package:NAME/FILE of the weights to start from."
    )
    chat_template: str = Field(
        default="auto",
        description="How turns become text: chatml, r1, llama3, gemma3, phi3, phi4, phi4_mini, the "
        "path of a Jinja template with {% generation %} marks, or auto to choose by the model's "
        "special tokens.",
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        default="float32",
        description="Type in which the weights are loaded, trained and saved. Updates at usual "
        "learning rates are lost in 16-bit weights; keep float32 and use bf16 for speed.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Whether Python code that lies beside the weights may run."
    )


class Lora(_Section):
    """Low-rank adapters in place of training all weights."""

    r: int = Field(default=32, ge=1, description="Rank of the adapters.")
    alpha: float = Field(
        default=64, gt=0, description="Scale of the adapters; their output is times alpha / r."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        default="all-linear",
        description="Names of the layers that get an adapter; all-linear is all but the output "
        "layer.",
    )


class Train(_Section):
    """Supervised fine-tuning on the kept traces."""

    method: Literal["sft"] = Field(default="sft", description="How the student is trained.")
    epochs: float = Field(default=2, gt=0, description="Passes over the training data.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps, in place of epochs."
    )
    learning_rate: float = Field(
        default=1e-5,
        gt=0,
        le=1,
        description="Highest learning rate. LoRA and very small models want about ten times the "
        "default.",
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate goes on after the warm-up."
    )
    min_lr_ratio: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Where the cosine ends, as a share of learning_rate.",
    )
    warmup_ratio: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps in which the rate climbs from 0."
    )
    batch_size: int = Field(
        default=8, ge=1, description="Examples that go through the model together, per device."
    )
    gradient_accumulation: int = Field(
        default=1, ge=1, description="Batches that make up one optimizer step."
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="Most tokens an example may have, prompt included. A longer one is refused, "
        "never cut. null: the model's own window.",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay.")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's beta1.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's beta2.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are clipped to this norm; 0 clips nothing."
    )
    bf16: bool | Literal["auto"] = Field(
        default="auto",
        description="Computes in bfloat16 over the loaded weights. auto: on a GPU that has it.",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        default="auto",
        description="Recomputes activations to save memory, for about a third more time. auto: on "
        "a GPU.",
    )
    lora: Lora | None = Field(
        default=None, description="Adapters in place of all weights; null trains all weights."
    )
    logging_steps: int = Field(
        default=1, ge=1, description="Optimizer steps between two lines of log.jsonl."
    )
    save_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between checkpoints. null: ten checkpoints over the training.",
    )
    keep_checkpoints: int = Field(
        default=0,
        ge=0,
        description="How many of the last checkpoints stay once the student is saved; while it "
        "trains, at least one does.",
    )
    seed: int | None = Field(
        default=None, ge=0, description="Seed of order and adapters. null: the seed of the run."
    )

    @model_validator(mode="after")
    def _minimum_only_for_cosine(self) -> Train:
        if self.min_lr_ratio and self.scheduler != "cosine":
            raise ValueError("min_lr_ratio works with scheduler: cosine only")
        return self
