"""lm-eval's benchmarks, run on the students of an evaluation."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synth.config.evaluate import Evaluate
from synth.core.files import read_json, write_json
from synth.core.models import load_model, load_tokenizer, weights_identity
from synth.stages._evaluate.models import Weights
from synth.stages.context import StageContext

# Which figures a manifest holds. An evaluation with others is done again, from stored answers.
FIGURES = 2

RunBenchmarks = Callable[[StageContext, str, str, Weights], dict[str, Any]]


def benchmark_files(section: Evaluate) -> dict[str, Any]:
    """Returns lm-eval's version and the user's own benchmarks, where any are to be run."""
    if section.lm_eval is None:
        return {}
    files: dict[str, Any] = {"lm_eval": None}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files["lm_eval"] = importlib.metadata.version("lm_eval")
    if section.lm_eval_path is not None:
        folder = Path(section.lm_eval_path)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stat = path.stat()
            files[str(path.relative_to(folder))] = [stat.st_size, stat.st_mtime_ns]
    return files


def load_benchmarks(section: Evaluate) -> RunBenchmarks | None:
    """Returns what runs the benchmarks on a student; each student's result is kept on the disk.

    Their data are loaded at once, so that what is missing shows before anyone is asked.
    """
    if section.lm_eval is None:
        return None
    from sft.data.chat_template import set_chat_template
    from sft.evaluation.lm_eval import load_tasks, run_tasks

    tasks, files = section.lm_eval, benchmark_files(section)
    manager = load_tasks(tasks, section.lm_eval_path)

    def measure(context: StageContext, who: str, title: str, weights: Weights) -> dict[str, Any]:
        identity = {
            "version": FIGURES,
            "weights": weights_identity(weights.path),
            "template": weights.template,
            "dtype": weights.student.dtype,
            "tasks": tasks,
            "limit": section.lm_eval_limit,
            "files": files,
        }
        path = context.folder.stage("lm-eval") / f"{who}.json"
        result = read_json(path)
        if result is None or result["made_of"] != identity:
            context.say(f"  lm-eval, {title}: {', '.join(tasks)}")
            student = weights.student
            tokenizer = load_tokenizer(weights.path, student.trust_remote_code)
            if weights.template is not None:
                set_chat_template(tokenizer, weights.template)
            figures = run_tasks(
                load_model(weights.path, student.dtype, None, student.trust_remote_code),
                tokenizer,
                tasks,
                manager=manager,
                limit=section.lm_eval_limit,
                batch_size=section.batch_size,
            )
            result = {"made_of": identity, **figures}
            write_json(path, result)
        return {key: value for key, value in result.items() if key != "made_of"}

    return measure
