"""Placeholder."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.run import Run
from synth.core.files import read_json, write_json
from synth.core.models import load_model, load_tokenizer, weights_identity
from synth.core.run_folder import Folder
from synth.stages.generate import Say

if TYPE_CHECKING:
    pass
from synth.stages._evaluate.models import _Asked

# Which figures a manifest holds. An evaluation with others is done again, from stored answers.
FIGURES = 2


def _benchmark_files(run: Run) -> dict[str, Any]:
    """lm-eval's version and the user's own benchmarks, where there are any to be run."""
    assert run.evaluate is not None
    if run.evaluate.lm_eval is None:
        return {}
    try:
        found: dict[str, Any] = {"lm_eval": importlib.metadata.version("lm_eval")}
    except importlib.metadata.PackageNotFoundError:
        found = {"lm_eval": None}
    if run.evaluate.lm_eval_path is not None:
        place = Path(run.evaluate.lm_eval_path)
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            stat = path.stat()
            found[str(path.relative_to(place))] = [stat.st_size, stat.st_mtime_ns]
    return found


def _benchmarks(run: Run) -> Callable[[Folder, str, _Asked, Say], dict[str, Any]] | None:
    """What runs lm-eval's benchmarks on a student, each student's result kept on the disk.

    Their data are loaded at once, so that what is missing shows before anyone is asked.
    """
    config = run.evaluate
    if config is None or config.lm_eval is None:
        return None
    from sft.data.chat_template import apply
    from sft.evaluation.lm_eval import load_tasks, run_tasks

    tasks, files = config.lm_eval, _benchmark_files(run)
    manager = load_tasks(tasks, config.lm_eval_path)

    def measure(folder: Folder, who: str, one: _Asked, say: Say) -> dict[str, Any]:
        weights = one.weights
        assert weights is not None
        made_of = {
            "version": FIGURES,
            "weights": weights_identity(weights.place),
            "template": weights.template,
            "dtype": weights.student.dtype,
            "tasks": tasks,
            "limit": config.lm_eval_limit,
            "files": files,
        }
        path = folder.stage("lm-eval") / f"{who}.json"
        done = read_json(path)
        if done is None or done["made_of"] != made_of:
            say(f"  lm-eval, {one.title}: {', '.join(tasks)}")
            student = weights.student
            tokenizer = load_tokenizer(weights.place, student.trust_remote_code)
            if weights.template is not None:
                apply(tokenizer, weights.template)
            model = load_model(weights.place, student.dtype, None, student.trust_remote_code)
            found = run_tasks(
                model,
                tokenizer,
                tasks,
                manager=manager,
                limit=config.lm_eval_limit,
                batch_size=config.batch_size,
            )
            done = {"made_of": made_of, **found}
            write_json(path, done)
        return {key: value for key, value in done.items() if key != "made_of"}

    return measure
