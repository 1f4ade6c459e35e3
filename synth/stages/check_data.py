"""Looks into the local files of a config: columns that are not there, and what training leaves out.

Nothing is asked, and nothing is loaded from a hub. A run says the same when it reads the files.
"""

from __future__ import annotations

from synth.config.run import Run
from synth.config.yaml_file import Source, raise_if_any
from synth.core.errors import Problem, UserError
from synth.core.record import Record
from synth.stages._train.context_check import ContextCheck
from synth.stages.context import Say

_LOCAL = {"jsonl", "csv", "parquet", "inline"}  # sources of questions that lie on this machine
_FIRST = 200  # traces of a source that are looked at


def check_data(run: Run, source: Source, say: Say) -> None:
    """Says what training would leave out of the traces.

    Raises ConfigError where a local file gives no question or no trace, or `answer` names a column
    that it does not have.
    """
    problems = _question_problems(run, source)
    if run.traces is not None:
        problems += _trace_problems(run, source, say)
    raise_if_any(problems, source)


def _question_problems(run: Run, source: Source) -> list[Problem]:
    from synth.tasks import first_mistake

    sections = {"train": run.tasks.train, "eval": run.tasks.eval or []} if run.tasks else {}
    return [
        source.problem(("tasks", section, index), mistake)
        for section, entries in sections.items()
        for index, entry in enumerate(entries)
        if entry["source"] in _LOCAL and (mistake := first_mistake(entry))
    ]


def _trace_problems(run: Run, source: Source, say: Say) -> list[Problem]:
    from synth.traces import read_traces

    problems, check, all_read = [], ContextCheck(run), True
    for index, entry in enumerate(run.traces or ()):
        if entry["source"] != "file":
            all_read = False
            continue
        limit, count = min(entry.get("limit") or _FIRST, _FIRST), 0
        try:
            for item in read_traces([{**entry, "limit": limit}], lambda text: None):
                if isinstance(item, Record):
                    check.add(item)
                    count += 1
        except UserError as error:
            problems.append(source.problem(("traces", index), str(error)))
        all_read = all_read and count < _FIRST
    try:
        if all_read:
            check.refuse_if_all()
    except UserError as error:
        problems.append(source.problem(("traces",), str(error)))
    else:
        check.report(say)
    return problems
