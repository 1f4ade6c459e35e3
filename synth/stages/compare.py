"""The command `compare`: how two evaluated runs differ on the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synth.core.errors import UserError, nearest
from synth.core.run_folder import RunFolder


def compare_runs(first: Path, second: Path, who: str = "after") -> dict[str, Any]:
    """Returns how a model that was evaluated in one run differs from the same in another.

    Whose answers are compared says `who`: `before`, `after`, `teacher` or `chain_NAME`. The result
    is what `sft.evaluation.scores.paired` gives (second minus first), `who`, the `runs`, and
    `notes`: in what the two were measured differently.

    Raises:
        UserError: One of them was not evaluated, or they were not asked the same questions.

    Example:
        >>> result = compare_runs(Path("runs/small"), Path("runs/big"))
        >>> result["difference"]
    """
    from sft.evaluation.scores import paired

    folders = (first, second)
    manifests = [RunFolder(folder).need("evaluate") for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        if who not in manifest["results"]:
            hint = nearest(who, manifest["results"])
            raise UserError(f"{folder}: nobody was evaluated as {who!r}{hint}")
        if "asked" not in manifest:
            raise UserError(
                f"{folder}: evaluated by an older version, which did not note its questions; "
                "`distill evaluate` makes the figures anew from the stored answers"
            )
    ids_first, ids_second = (manifest["asked"]["ids"] for manifest in manifests)
    if set(ids_first) != set(ids_second):
        raise UserError(
            f"{first} and {second} were not asked the same questions: {len(ids_first):,} and "
            f"{len(ids_second):,}, of which {len(set(ids_first) & set(ids_second)):,} are the "
            "same; give both the same questions (tasks, seed, evaluate.limit)"
        )
    answers_first, answers_second = (m["results"][who]["per_question"] for m in manifests)
    by_id = dict(zip(ids_second, answers_second, strict=True))
    groups = {name: manifests[0]["asked"][name] for name in ("difficulty", "source")}
    notes = [
        f"{key}: {manifests[0].get(key)} and {manifests[1].get(key)}"
        for key in ("verifier", "samples", "sampling", "complete")
        if manifests[0].get(key) != manifests[1].get(key)
    ]
    return {
        "who": who,
        "runs": [str(folder) for folder in folders],
        **paired(answers_first, [by_id[id] for id in ids_first], groups),
        "notes": notes,
    }
