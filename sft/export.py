"""The finished student: a folder that plain `from_pretrained` loads, there whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def save_student(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes weights, tokenizer, chat template and generation config beside the place, then moves.

    Adapters are merged into the weights; they themselves are kept in `adapter` beside the folder.

    Args:
        model: The trained student.
        tokenizer: Its tokenizer with the template that it was trained with.
        folder: Where the student goes; an older one there is replaced.
    """
    if hasattr(model, "merge_and_unload"):
        _place(folder.with_name("adapter"), lambda partial: model.save_pretrained(partial))
        model = model.merge_and_unload()
    set_end(model, tokenizer)

    def write(partial: Path) -> None:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)

    _place(folder, write)


def set_end(model: Any, tokenizer: Any) -> None:
    """Makes model and generation config agree with the tokenizer on where an answer ends.

    Other tokens at which generation stopped before stay: a base model's `<|endoftext|>` ends an
    answer too.
    """
    end = tokenizer.eos_token_id
    model.config.get_text_config().eos_token_id = end
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    generation = model.generation_config
    before = generation.eos_token_id
    others = [] if before is None else before if isinstance(before, list) else [before]
    others = [token for token in others if token != end]
    generation.eos_token_id = [end, *others] if others else end
    generation.pad_token_id = tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except ValueError:
        # Some hub models carry a temperature with sampling off, which cannot be saved.
        generation.do_sample = True


def _place(folder: Path, write: Any) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
