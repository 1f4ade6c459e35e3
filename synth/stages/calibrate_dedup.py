"""`distill dedup --calibrate`: how well the config's dedup filters do on the user's own traces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from synth.config.run import Run, traces_of
from synth.core.dataset import read_split
from synth.core.errors import UserError
from synth.core.processes import workers
from synth.core.run_folder import RunFolder
from synth.stages.build_filters import FilterSet

if TYPE_CHECKING:
    from filters.engine.calibrate_dedup import Calibration


def calibrations(run: Run, pairs: int) -> Iterator[Calibration]:
    """Yields how each dedup filter of the config does on a run's traces with `pairs` planted edits.

    Raises UserError where the config names no dedup filter, or the traces are not there.
    """
    from filters.base import Context
    from filters.engine.calibrate_dedup import FILTERS, calibrate

    chosen = [
        (name, loaded.config)
        for loaded in FilterSet.from_config(run).filters
        if (name := loaded.module.__name__.rpartition(".")[2]) in FILTERS
    ]
    if not chosen:
        raise UserError(f"the config names none of the filters {', '.join(FILTERS)}")
    folder = RunFolder(run.folder)
    folder.need(traces_of(run))
    for name, config in chosen:
        yield calibrate(
            name,
            lambda: read_split(folder.stage(traces_of(run)), "train"),
            config.model_dump(exclude_unset=True),
            Context(workers=workers(), seed=run.seed),
            pairs,
            run.seed,
        )
