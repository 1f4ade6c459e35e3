"""What several processes that train one student do together, beside what their launcher does."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors.torch import save_file
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from sft.data.encoding import IGNORED
from sft.losses.hidden_states import FILE, HiddenStateLoss
from sft.training.collator import BatchDataset


class PadToWorldSize:
    """The batches of a training, filled up until each process has equally many.

    Every process takes each n-th batch. Where they do not come out even, accelerate gives those
    of the beginning a second time; here empty ones come last, so that n processes take the very
    steps of one.
    """

    def __init__(self, batches: BatchDataset, processes: int) -> None:
        self.batches, self.processes = batches, processes

    def __len__(self) -> int:
        return -(-len(self.batches) // self.processes) * self.processes

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number < len(self.batches):
            return self.batches[number]
        return empty_like(self.batches[len(self.batches) - 1])


def empty_like(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a batch of the same shape in which no token carries loss."""
    empty = {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}
    empty |= {"tokens": 0, "records": []}
    if "soft" in batch:
        empty["soft"] = [[part[:0] for part in teacher] for teacher in batch["soft"]]
    if "weights" in batch:
        empty["weights"] = batch["weights"][:0]
    return empty


def all_reduce_any(flag: bool) -> bool:
    """Returns whether it holds in any process; all must ask, and all get the same answer."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    return bool(reduce(torch.tensor([float(flag)], device=state.device))[0] > 0)


def disable_zero3_init() -> None:
    """Has transformers load models whole again; once ZeRO-3 is at work, it shards each."""
    unset_hf_deepspeed_config()


def save_projections(hidden: HiddenStateLoss, checkpoint: Path, writes: bool) -> None:
    """Writes a student's projections beside a checkpoint, whole where they are sharded.

    All processes must call it; the one that `writes` does.
    """
    if hidden.projections is None:
        return
    whole: Any = contextlib.nullcontext()
    weights = list(hidden.projections.parameters())
    if any(hasattr(weight, "ds_id") for weight in weights):
        # ZeRO-3 leaves nothing in the weights between the steps.
        whole = importlib.import_module("deepspeed").zero.GatheredParameters(weights)
    with whole:
        state = {
            name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            for name, weight in hidden.projections.state_dict().items()
        }
        if writes:
            save_file(state, checkpoint / FILE)
