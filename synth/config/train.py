"""The config sections `student` and `train`: which model is trained, and how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from synth.config.base import Section
from synth.config.distillation import Dtype, HiddenStates, OnPolicy, SoftLabels, TeacherModel
from synth.core.errors import MissingPackage, missing_package, nearest


class Rope(Section):
    """Rotary position embeddings other than those of the checkpoint, for longer traces."""

    theta: float | None = Field(None, gt=0, description="Base of the rotation; OpenR1 sets 300000.")
    window: int | None = Field(None, ge=8, description="Positions that the student then has.")
    scaling: dict[str, Any] | None = Field(
        None,
        description="rope_type (linear, dynamic, yarn, llama3 ...) and what it takes, such as "
        "factor, in transformers' words.",
    )


class Student(Section):
    """The model that is trained."""

    model: str = Field(
        description="Hub id, folder, .gguf file, package:NAME/FILE of the weights to start from, "
        "or trained:NAME for a model that this config trains before (see chain)."
    )
    layers: Annotated[int, Field(ge=2)] | list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Makes the student of these layers of the model alone: how many, evenly "
        "spread, or which, counted from 1. null: all.",
    )
    rope: Rope | None = Field(None, description="Position embeddings, to widen the window.")
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] | None = Field(
        None, description="How attention is computed; null: as transformers chooses."
    )
    chat_template: str = Field(
        "auto",
        description="How turns become text: chatml, r1, llama3, gemma3, phi3, phi4, phi4_mini, the "
        "path of a Jinja template with {% generation %} marks, or auto to choose by the model's "
        "special tokens.",
    )
    dtype: Dtype = Field(
        "float32",
        description="Type in which the weights are loaded, trained and saved. Updates at usual "
        "learning rates are lost in 16-bit weights; keep float32 and use bf16 for speed.",
    )
    trust_remote_code: bool = Field(
        False, description="Whether Python code that lies beside the weights may run."
    )


class Lora(Section):
    """Low-rank adapters in place of training all weights."""

    r: int = Field(32, ge=1, description="Rank of the adapters.")
    alpha: float = Field(
        64, gt=0, description="Scale of the adapters; their output is times alpha / r."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="Names of the layers that get an adapter; all-linear is all but the output "
        "layer.",
    )
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="QLoRA: the frozen weights in 4 (NF4) or 8 bits, by bitsandbytes."
    )


class Train(Section):
    """How the student learns: from the kept traces, and from models that are its teachers."""

    method: Literal["sft", "soft_labels", "hidden_states", "on_policy"] = Field(
        "sft",
        description="sft: the text of the traces. soft_labels: also what teachers gave every "
        "token. hidden_states: also a teacher's intermediate layers. on_policy: the student's own "
        "answers, token by token, under a teacher's eyes.",
    )
    teachers: dict[str, TeacherModel] = Field(
        default_factory=dict,
        description="Models that the student learns from beyond their text, by name.",
    )
    soft_labels: SoftLabels | None = Field(
        None, description="Settings of soft labels; with hidden_states, adds them to it."
    )
    hidden_states: HiddenStates | None = Field(
        None, description="Settings of the method hidden_states."
    )
    on_policy: OnPolicy | None = Field(None, description="Settings of the method on_policy.")
    epochs: float = Field(2, gt=0, description="Passes over the training data.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps, in place of epochs.")
    learning_rate: float = Field(
        1e-5,
        gt=0,
        le=1,
        description="Highest learning rate. LoRA and very small models want about ten times the "
        "default.",
    )
    scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate goes on after the warm-up."
    )
    min_lr_ratio: float = Field(
        0.0, ge=0, lt=1, description="Where the cosine ends, as a share of learning_rate."
    )
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps in which the rate climbs from 0."
    )
    batch_size: int = Field(
        8, ge=1, description="Examples that go through the model together, per device."
    )
    gradient_accumulation: int = Field(
        1, ge=1, description="Batches that make up one optimizer step."
    )
    max_length: int | None = Field(
        None,
        ge=8,
        description="Most tokens an example may have, prompt included. A longer one is refused, "
        "never cut. null: the model's own window.",
    )
    layout: Literal["padded", "padding_free", "packed"] = Field(
        "padded",
        description="How examples lie in a batch: a row each with padding, one after the other "
        "without any, or packed into rows of pack_length. Examples never see each other; on a GPU, "
        "flash_attention keeps the last two fast.",
    )
    pack_length: int | None = Field(
        None,
        ge=8,
        description="Tokens of a packed row; batch_size counts rows. null: max_length, or the "
        "longest example.",
    )
    mix: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="How often an epoch meets each example of a source: 2 twice, 0.5 every "
        "second one, another half each epoch. Sources that are not named: once.",
    )
    curriculum: Literal["none", "short_first", "easy_first"] = Field(
        "none",
        description="Order of the examples: random, by length, or by the share of the teacher's "
        "samples that were right, most first.",
    )
    fresh_samples: bool = Field(
        False,
        description="Each epoch takes another one of a question's traces in place of all of them.",
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's beta1.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's beta2.")
    max_grad_norm: float = Field(
        1.0, ge=0, description="Gradients are clipped to this norm; 0 clips nothing."
    )
    bf16: bool | Literal["auto"] = Field(
        "auto",
        description="Computes in bfloat16 over the loaded weights. auto: on a GPU that has it.",
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="Recomputes activations to save memory, for about a third more time. auto: on "
        "a GPU.",
    )
    lora: Lora | None = Field(
        None, description="Adapters in place of all weights; null trains all weights."
    )
    liger: bool = Field(False, description="Liger's kernels, on a GPU and with method: sft.")
    report_to: list[Literal["trackio", "wandb", "tensorboard"]] = Field(
        default_factory=list,
        description="Trackers that get what log.jsonl gets; each a package of its own.",
    )
    logging_steps: int = Field(
        1, ge=1, description="Optimizer steps between two lines of log.jsonl."
    )
    save_steps: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps between checkpoints. null: ten checkpoints over the training.",
    )
    keep_checkpoints: int = Field(
        0,
        ge=0,
        description="How many of the last checkpoints stay once the student is saved; while it "
        "trains, at least one does.",
    )
    keep_replaced: int = Field(
        1,
        ge=0,
        description="How many students that this one replaces stay beside it, newest first, and as "
        "many stopped trainings with other settings.",
    )
    drop_context: bool = Field(
        False,
        exclude=True,  # it says what may be trained on and changes no result: nothing is done again
        description="Trains on the last question alone where the traces have more: a system "
        "prompt, earlier turns, tools. By default such data is refused.",
    )
    seed: int | None = Field(
        None, ge=0, description="Seed of order and adapters. null: the seed of the run."
    )

    @model_validator(mode="after")
    def _fits(self) -> Train:
        if self.min_lr_ratio and self.scheduler != "cosine":
            raise ValueError("min_lr_ratio works with scheduler: cosine only")
        if self.pack_length is not None and self.layout != "packed":
            raise ValueError("pack_length works with layout: packed only")
        if self.liger and self.method != "sft":
            raise ValueError("liger works with method: sft only")
        for section in ("soft_labels", "hidden_states", "on_policy"):
            both = section == "soft_labels" and self.method == "hidden_states"
            if getattr(self, section) is not None and self.method != section and not both:
                raise ValueError(f"{section} is set, but method is {self.method}")
        if self.method == "sft":
            if self.teachers:
                raise ValueError("teachers: method sft learns from text alone; set another method")
        elif not self.teachers:
            raise ValueError(f"method {self.method} needs a model to learn from: give teachers")
        self._one_teacher()
        return self

    def _one_teacher(self) -> None:
        """Raises ValueError where a method that has one teacher is given several."""
        if self.method == "on_policy" and len(self.teachers) > 1:
            raise ValueError("teachers: on_policy learns from one")
        if self.method == "hidden_states":
            named = self.hidden_states.teacher if self.hidden_states else None
            if named is not None and named not in self.teachers:
                raise ValueError(
                    f"hidden_states.teacher: no teacher {named!r}{nearest(named, self.teachers)}"
                )
            if named is None and len(self.teachers) > 1:
                raise ValueError(
                    "hidden_states.teacher: say which of the teachers gives its layers"
                )

    def decisive(self) -> dict[str, Any]:
        """What the trained weights depend on, as JSON values: not what is logged, saved or kept.

        Nor where a teacher runs, or whether activations are kept or computed again.
        """
        shown = {"logging_steps", "report_to", "save_steps", "keep_checkpoints", "keep_replaced"}
        values = self.model_dump(mode="json", exclude={*shown, "gradient_checkpointing"})
        for teacher in values["teachers"].values():
            del teacher["device"]
        return values

    def missing(self) -> list[MissingPackage]:
        """Returns an error for each package that this training needs and that is missing."""
        missing: list[MissingPackage] = []
        for package in ("trl", "accelerate", *(["peft"] if self.lora else [])):
            missing += missing_package(package, "training", "train")
        for package in self.report_to:
            missing += missing_package(package, "train.report_to", "trackers")
        if self.liger:
            missing += missing_package("liger-kernel", "train.liger")
        quantized = {f"train.teachers.{n}": t.quantization for n, t in self.teachers.items()}
        quantized["train.lora"] = self.lora.quantization if self.lora else None
        for place, kind in quantized.items():
            if kind is not None:
                missing += missing_package("bitsandbytes", f"{place}.quantization: {kind}", "qlora")
        return missing
