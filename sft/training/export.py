"""The finished student: a folder that plain `from_pretrained` loads, there whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType

from sft.losses.hidden_states import NAME, strip
from sft.losses.objective import detach_loss
from sft.models.student import load_student, merged
from sft.training.distributed import disable_zero3_init
from synth.config.train import Student
from synth.core.files import replace_folder


def save_student(trainer: Any, tokenizer: Any, folder: Path, student: Student) -> None:
    """Writes weights, tokenizer, chat template and generation config beside the place, then moves.

    Adapters are kept in `adapter` beside the folder, and merged into the weights as they were
    before quantisation. An older student in the folder is replaced. Of several processes all must
    call it; the first one writes.
    """
    model = bare_of_wrappers(trainer)
    state = _gathered(trainer)
    if not trainer.accelerator.is_main_process:
        return
    if hasattr(model, "merge_and_unload"):
        adapter = folder.with_name("adapter")
        with _replacing(adapter) as partial:
            model.save_pretrained(partial, state_dict=state)
        model = merged(student, adapter)
    elif state is not None:
        # What is sharded over processes cannot be saved as it is; the same model, whole, can.
        model = load_student(student, device="cpu")
        model.load_state_dict(state)
    set_end(model, tokenizer)
    with _replacing(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def bare_of_wrappers(trainer: Any) -> Any:
    """Returns the student with its adapters, without loss, projections or parallel wrappers."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    detach_loss(model)
    return strip(model)


def _gathered(trainer: Any) -> dict[str, Any] | None:
    """Returns all weights on one device where they are sharded over processes, else None."""
    sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if trainer.accelerator.distributed_type not in sharded:
        return None
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    disable_zero3_init()
    return {name: weight for name, weight in (state or {}).items() if NAME not in name}


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
    before = before if isinstance(before, list) else [before]
    others = [token for token in before if token not in (None, end)]
    generation.eos_token_id = [end, *others] if others else end
    generation.pad_token_id = tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except ValueError:
        # Some hub models carry a temperature with sampling off, which cannot be saved.
        generation.do_sample = True


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    replace_folder(partial, folder)
