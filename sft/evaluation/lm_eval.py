"""Standard benchmarks on a student, by the library lm-eval (EleutherAI's evaluation harness)."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sft.evaluation.statistics import wilson
from synth.core.errors import MissingPackage, UserError, nearest


def load_tasks(tasks: Sequence[str], own_tasks: str | Path | None = None) -> Any:
    """Returns lm-eval's `TaskManager`, with the tasks' data loaded before a model is asked.

    Args:
        tasks: Names of tasks, groups or tags of lm-eval, or of the user's own.
        own_tasks: A folder with the user's own tasks as YAML files.

    Raises:
        MissingPackage: lm-eval is not installed.
        UserError: No such task, or its data or code cannot be had.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingPackage("lm-eval", "evaluate.lm_eval", extra="eval")
    if own_tasks is not None and not Path(own_tasks).is_dir():
        raise UserError(f"evaluate.lm_eval_path: no folder {own_tasks}")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if own_tasks is None else str(own_tasks))
    if not tasks:
        raise UserError("evaluate.lm_eval: names no task")
    names = sorted(manager.all_tasks)
    for task in tasks:
        if task not in names:
            hint = nearest(task, names)
            raise UserError(f"evaluate.lm_eval: lm-eval has no task {task!r}{hint}")
    for task in tasks:
        try:
            manager.load(task)
        except Exception as error:
            # Data sets, downloads and the tasks' own code raise errors of every kind.
            raise UserError(
                f"evaluate.lm_eval: the task {task!r} cannot be loaded (is its data set to be had "
                f"from here?): {_line(error)}"
            ) from error
    return manager


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    manager: Any = None,
    limit: int | None = None,
    batch_size: int = 8,
    chat: bool = True,
) -> dict[str, Any]:
    """Runs tasks of lm-eval on a student.

    Args:
        model: A causal language model of transformers, on the device where it is to run.
        tokenizer: Its tokenizer.
        tasks: Names of tasks, groups or tags that `manager` knows.
        manager: What `load_tasks` gives; lm-eval's own tasks by default.
        limit: Ask only the first so many questions of each task.
        batch_size: Questions at a time.
        chat: Ask through the tokenizer's chat template, as the student was trained.

    Returns:
        `version` of lm-eval, and under `tasks` for each one (each one of a group, and the group
        where it has a mean): `questions`, `shots`, the `task_version`, and `metrics`, each with
        `metric`, `filter`, `value`, `stderr` and the limits `low` and `high` of its 95% interval:
        Wilson's where each question is right or wrong, else value ± 1.96 stderr (lm-eval's
        standard error is over questions). What is not names is None.

    Raises:
        MissingPackage: lm-eval is not installed.
        UserError: No such task, or one that would run code which the model wrote.
    """
    manager = manager or load_tasks(tasks)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    try:
        results = simple_evaluate(
            model=harness,
            tasks=list(tasks),
            limit=limit,
            apply_chat_template=chat and bool(getattr(tokenizer, "chat_template", None)),
            task_manager=manager,
            log_samples=False,
            bootstrap_iters=1000,
            confirm_run_unsafe_code=False,
        )
    except ValueError as error:  # also how lm-eval refuses tasks that run a model's code
        raise UserError(f"evaluate.lm_eval: {_line(error)}") from error
    return reduced(results or {})


def reduced(results: dict[str, Any]) -> dict[str, Any]:
    """Returns what `simple_evaluate` gives as plain JSON values, without configs and samples."""
    tasks = {}
    for name, values in results.get("results", {}).items():
        questions = results.get("n-samples", {}).get(name, {}).get("effective")
        tasks[name] = {
            "questions": questions,
            "shots": results.get("n-shot", {}).get(name),
            "task_version": results.get("versions", {}).get(name),
            "metrics": [
                _metric(key, value, values, questions)
                for key, value in values.items()
                if "," in key and "_stderr," not in key
            ],
        }
    return {"version": results.get("lm_eval_version"), "tasks": tasks}


def _metric(key: str, value: Any, values: dict[str, Any], questions: int | None) -> dict[str, Any]:
    metric, _, filter_name = key.partition(",")
    mean, error = _number(value), _number(values.get(f"{metric}_stderr,{filter_name}"))
    low = high = None
    if mean is not None and error is not None:
        low, high = mean - 1.96 * error, mean + 1.96 * error
        if questions is not None and _of_right_and_wrong(mean, error, questions):
            low, high = wilson(round(mean * questions), questions)
    return {
        "metric": metric,
        "filter": filter_name,
        "value": mean,
        "stderr": error,
        "low": low,
        "high": high,
    }


def _of_right_and_wrong(mean: float, error: float, n: int) -> bool:
    """Returns whether a mean and its standard error are those of zeros and ones.

    Then ± 1.96 errors would leave [0, 1], and have no width where all are alike.
    """
    if n < 2 or not 0 <= mean <= 1 or abs(mean * n - round(mean * n)) > 1e-6 * n:
        return False
    return math.isclose(error, math.sqrt(mean * (1 - mean) / (n - 1)), rel_tol=1e-6, abs_tol=1e-12)


def _number(value: Any) -> float | None:
    """Returns a finite number, or None: lm-eval writes "N/A" where there is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
