"""The filters of a config: what they are handed, and the stage that runs them over the traces."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from synth.config.run import Run, traces_of
from synth.core.dataset import read_split, writing
from synth.core.processes import workers
from synth.core.progress import duration, shown
from synth.core.record import Record, Task
from synth.core.run_folder import Folder
from synth.stages.build_filters import (
    _WAITING,
    _around,
    _context,
    _judges,
    _refuse_unmet,
    _specs,
    _tokenizer_of,
    context_of,
    load,
)

if TYPE_CHECKING:
    from filters.engine.executor import Executor
    from filters.engine.filter import Filter
    from filters.engine.outcome_store import OutcomeStore

Say = Callable[[str], None]

LEDGER = "verdicts.sqlite"


def filter_inputs(run: Run, folder: Folder) -> dict[str, Any]:
    """Traces, filters with their options, and the questions that they must not touch."""
    filters = load(run)
    return {
        "generate": folder.content(traces_of(run)),
        "filters": {one.name: one.config.model_dump(mode="json") for one in filters},
        "around": _around(run, folder, filters),
    }


def filter_traces(run: Run, folder: Folder, inputs: dict[str, Any], say: Say) -> dict[str, Any]:
    """Gives every trace its verdicts and parts the kept from the rejected."""
    from filters.engine.funnel import Funnel
    from filters.engine.outcome_store import OutcomeStore

    funnel = Funnel()
    with OutcomeStore(folder.path / LEDGER) as ledger:
        engine = engine_of(run, folder, ledger, say)
        now = engine.progress

        def line() -> str:
            seconds = max(1e-9, time.monotonic() - now.started)
            rate = now.done / seconds
            left = f" · {duration((now.total - now.done) / rate)} left" if rate else ""
            return f"filter: {now.doing} {now.done:,}/{now.total:,} traces · {rate:.0f}/s{left}"

        with shown(line):
            engine.judge()
            edits = [one for one in engine.filters if hasattr(one.module, "edit")]
            with writing(folder.stage("filter"), ("kept", "rejected")) as (splits, manifest):
                now.begin("writing", folder.need(traces_of(run))["rows"]["train"])
                for record in engine.records():
                    funnel.add(record)
                    if record.rejected_by is None:
                        _edit(record, edits)
                        splits["kept"].write(record)
                    else:
                        splits["rejected"].write(record)
                    now.done += 1
                manifest |= {
                    "inputs": inputs,
                    "funnel": funnel.to_dict(),
                    "notes": engine.notes(),
                }
    return manifest


def _edit(record: Record, edits: list[Filter]) -> None:
    """Lets filters change a record that is kept, as their evidence says."""
    evidence = {v.filter: json.loads(v.evidence) for v in record.verdicts if v.evidence}
    for one in edits:
        if one.name in evidence:
            one.module.edit(one.config, record, evidence[one.name])


def engine_of(run: Run, folder: Folder, ledger: OutcomeStore, say: Say) -> Executor:
    """The filters of the config over the run's traces."""
    from filters.engine.executor import Executor

    filters = load(run)
    _refuse_unmet(run, filters)
    tasks = _eval_tasks(run, folder)
    stage = folder.stage(traces_of(run))
    return Executor(
        stage,
        "train",
        folder.content(traces_of(run)),
        _specs(run),
        ledger,
        make_context=functools.partial(
            _context, _tokenizer_of(run, folder, filters), tasks, run.seed
        ),
        context=context_of(run, filters, tasks),
        around=_around(run, folder, filters),
        workers=workers(),
        threads=_WAITING,
        say=say,
    )


def judges(run: Run) -> list[Any]:
    """Who the filters ask, and under which prompt: another judge is another verdict."""
    return [[one.name, *asked] for one in load(run) if (asked := _judges(run, one))]


def _eval_tasks(run: Run, folder: Folder) -> list[Task]:
    if run.tasks is None:
        return []
    return [record.task for record in read_split(folder.stage("tasks"), "eval")]
