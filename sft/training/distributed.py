"""What several processes that train one student do together, beside what their launcher does."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data.encoding import IGNORED
from sft.losses.hidden_states import FILE, HiddenStateLoss

if TYPE_CHECKING:
    from sft.training.collator import BatchDataset


class PadToWorldSize:
    """The groups of a training, filled up until each process has equally many.

    Every process takes each n-th group. Where groups do not come out even, accelerate gives those
    of the beginning a second time; here silent ones come last, so that n processes take the very
    steps of one.

    Args:
        groups: All groups of the training.
        processes: How many share them.
    """

    def __init__(self, groups: BatchDataset, processes: int) -> None:
        self.groups, self.processes = groups, processes

    def __len__(self) -> int:
        return -(-len(self.groups) // self.processes) * self.processes

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number < len(self.groups):
            return self.groups[number]
        return empty_like(self.groups[len(self.groups) - 1])


def empty_like(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of the same shape in which no token carries loss."""
    import torch

    without = {**batch, "labels": torch.full_like(batch["labels"], IGNORED)}
    without |= {"tokens": 0, "records": []}
    if "soft" in batch:
        without["soft"] = [[part[:0] for part in teacher] for teacher in batch["soft"]]
    if "weights" in batch:
        without["weights"] = batch["weights"][:0]
    return without


def all_reduce_any(flag: bool) -> bool:
    """Whether it holds in any process; all must ask, and all get the same answer."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    if state.num_processes == 1:
        return flag
    return bool(reduce(torch.tensor([float(flag)], device=state.device))[0] > 0)


def disable_zero3_init() -> None:
    """Has transformers load models whole again; once ZeRO-3 is at work, it shards each."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def save_projections(hidden: HiddenStateLoss, checkpoint: Path, writes: bool) -> None:
    """Writes a student's projections beside a checkpoint, whole where they are sharded.

    All processes must call it; the one that `writes` does.
    """
    from safetensors.torch import save_file

    if hidden.projections is None:
        return
    with _gathered(list(hidden.projections.parameters())):
        whole = {
            name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            for name, weight in hidden.projections.state_dict().items()
        }
        if writes:
            save_file(whole, checkpoint / FILE)


def _gathered(weights: list[Any]) -> contextlib.AbstractContextManager[Any]:
    """Makes weights whole in which ZeRO-3 leaves nothing between the steps."""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return contextlib.nullcontext()
    zero = importlib.import_module("deepspeed").zero
    gathered: contextlib.AbstractContextManager[Any] = zero.GatheredParameters(weights)
    return gathered
