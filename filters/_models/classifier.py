"""A sequence-classification model as filters use it: loaded once, long texts in windows."""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from filters.base import lacks_package
from synth.core.errors import UserError, nearest
from synth.core.models import load_tokenizer, locate, require_transformers

_BATCH_TOKENS = 8192  # of one forward pass; one input longer than that is a pass of its own
_LONGEST = 512  # where neither the tokenizer nor the model's config says how long an input may be
_SURROGATES = re.compile("[\ud800-\udfff]")


class Window(NamedTuple):
    """A stretch of a text: its tokens with the special ones, and its place in characters."""

    ids: list[int]
    start: int
    end: int


class Classifier:
    """A model with a classification head, and its tokenizer. Made by `load`.

    Its methods may be called from several threads; they wait for each other.

    Attributes:
        labels: The names of the model's outputs, in their order.
        longest: The most tokens that an input may have, special ones included.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        config = model.config.get_text_config()
        names = model.config.id2label
        self.labels = [str(names[place]) for place in sorted(names)]
        self._padding = config.pad_token_id
        positions = getattr(config, "max_position_embeddings", None) or _LONGEST
        if "roberta" in config.model_type:  # counts its positions from behind the padding's
            positions -= (self._padding or 0) + 1
        self.longest = min(int(tokenizer.model_max_length), positions)
        self._lock = threading.Lock()

    def label(self, name: str) -> int:
        """The index of a label; raises UserError where the model has none of this name."""
        if name in self.labels:
            return self.labels.index(name)
        raise UserError(f"label {name!r}: the model has none{nearest(name, self.labels)}")

    def windows(self, text: str, tokens: int, overlap: int) -> list[Window]:
        """A text in windows of at most so many tokens, neighbours sharing `overlap` of them.

        Special tokens are included. Lone surrogates, which no tokenizer takes, are read as U+FFFD.
        """
        with self._lock:
            cut = self._tokenizer(
                _SURROGATES.sub("\ufffd", text),
                truncation=True,
                max_length=tokens,
                stride=overlap,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
        windows = []
        for ids, offsets in zip(cut["input_ids"], cut["offset_mapping"], strict=True):
            inside = [(start, end) for start, end in offsets if end > start]
            start, end = (inside[0][0], inside[-1][1]) if inside else (0, 0)
            windows.append(Window(ids, start, end))
        return windows

    def exchange_ids(self, question: str, answer: str, chat_template: bool) -> list[int]:
        """The tokens of a question and its answer, in the chat template where there is one."""
        # A lone surrogate has no UTF-8, which tokenizers want.
        question, answer = (t.encode("utf-8", "replace").decode() for t in (question, answer))
        with self._lock:
            if chat_template and getattr(self._tokenizer, "chat_template", None):
                turns = [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
                encoded = self._tokenizer.apply_chat_template(turns, return_dict=True)
            else:
                encoded = self._tokenizer(f"{question}\n\n{answer}" if question else answer)
        return list(encoded["input_ids"])

    def logits(self, inputs: Sequence[Sequence[int]]) -> list[list[float]]:
        """The model's outputs for each input, a list of token ids with its special tokens.

        Only inputs of one length go together, so none is padded and none changes with the others.
        """
        import torch

        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for index, ids in enumerate(inputs):
            by_length[len(ids)].append(index)
        rows: list[list[float]] = [[] for _ in inputs]
        with self._lock, torch.inference_mode():
            for length, indices in by_length.items():
                # Decoders without a padding token refuse more than one input at once.
                size = 1 if self._padding is None else max(1, _BATCH_TOKENS // max(1, length))
                for start in range(0, len(indices), size):
                    batch = indices[start : start + size]
                    ids = torch.tensor([list(inputs[i]) for i in batch], device=self._model.device)
                    output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                    for index, row in zip(batch, output.float().tolist(), strict=True):
                        rows[index] = row
        return rows

    def probabilities(self, logits: Sequence[float]) -> list[float]:
        """The outputs as probabilities: by softmax, or by sigmoid where several labels may hold."""
        several = self._model.config.problem_type == "multi_label_classification"
        if several or len(logits) == 1:
            return [_sigmoid(value) for value in logits]
        largest = max(logits)
        shares = [math.exp(value - largest) for value in logits]
        return [share / sum(shares) for share in shares]


def load(
    model: str, dtype: str = "float32", device: str | None = None, trust_remote_code: bool = False
) -> Classifier:
    """The classifier that a name stands for, in evaluation mode; on the GPU where there is one.

    Raises:
        MissingPackage: torch or transformers is not installed.
        UserError: No such model, or its files have no trained classification head.
    """
    require_transformers(f"the model {model}")
    import torch
    from transformers import AutoModelForSequenceClassification

    folder, gguf = locate(model)
    if gguf:
        raise UserError(f"model {model}: a GGUF file has no classification head")
    tokenizer = load_tokenizer(model, trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(f"model {model}: its tokenizer does not say where its tokens stand")
    try:
        loaded, report = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(f"cannot load the classifier {model!r}: {first}") from error
    # Of a model without such a head transformers makes one of random numbers, and only warns.
    if report["missing_keys"]:
        lacking = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(f"model {model}: is no trained classifier; its files lack {lacking}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Classifier(loaded.to(device).eval(), tokenizer)


def load_once(
    label: str | None, model: str, dtype: str, device: str | None, trust_remote_code: bool
) -> Callable[[], tuple[Classifier, int | None]]:
    """A function that gives the classifier and the label's index; its first call loads it."""
    lock = threading.Lock()
    loaded: list[tuple[Classifier, int | None]] = []

    def get() -> tuple[Classifier, int | None]:
        with lock:
            if not loaded:
                classifier = load(model, dtype, device, trust_remote_code)
                loaded.append((classifier, None if label is None else classifier.label(label)))
            return loaded[0]

    return get


def lacking(needed_for: str) -> list[str]:
    """What this machine lacks to run a classifier, as a filter's `check` says it."""
    packages = ("torch", "transformers")
    return [line for package in packages for line in lacks_package(package, needed_for, "train")]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))
