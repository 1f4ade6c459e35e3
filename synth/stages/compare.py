"""Placeholder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synth.config.validate import load_run
from synth.core.errors import UserError, nearest
from synth.core.run_folder import Folder

if TYPE_CHECKING:
    pass


def evaluated_folder(name: str) -> Path:
    """The folder of a run that is named by its folder or by its config."""
    return Path(name) if Path(name).is_dir() else load_run(name)[0].folder


def compare_runs(one: Path, other: Path, who: str = "after") -> dict[str, Any]:
    """How someone who was evaluated in another run differs from the same one in this run.

    Args:
        one: Folder of a run that was evaluated.
        other: Folder of the other.
        who: Whose answers are compared: `before`, `after`, `teacher` or `chain_NAME`.

    Returns:
        What `sft.evaluation.scores.paired` gives (other minus one), `who`, the `runs`, and
        `notes`: in what the two were measured differently.

    Raises:
        UserError: One of them was not evaluated, or they were not asked the same questions.
    """
    from sft.evaluation.scores import paired

    places = (one, other)
    manifests = [Folder(place).need("evaluate") for place in places]
    for place, manifest in zip(places, manifests, strict=True):
        if who not in manifest["results"]:
            hint = nearest(who, manifest["results"])
            raise UserError(f"{place}: nobody was evaluated as {who!r}{hint}")
        if "asked" not in manifest:
            raise UserError(
                f"{place}: evaluated by an older version, which did not note its questions; "
                "`distill evaluate` makes the figures anew from the stored answers"
            )
    ids: list[Sequence[str]] = [manifest["asked"]["ids"] for manifest in manifests]
    if set(ids[0]) != set(ids[1]):
        raise UserError(
            f"{one} and {other} were not asked the same questions: {len(ids[0]):,} and "
            f"{len(ids[1]):,}, of which {len(set(ids[0]) & set(ids[1])):,} are the same; give "
            "both the same questions (tasks, seed, evaluate.limit)"
        )
    place_of = {id: place for place, id in enumerate(ids[1])}
    order = [place_of[id] for id in ids[0]]
    first, second = (manifest["results"][who]["per_question"] for manifest in manifests)
    sorts = {name: manifests[0]["asked"][name] for name in ("difficulty", "source")}
    notes = [
        f"{key}: {manifests[0].get(key)} and {manifests[1].get(key)}"
        for key in ("verifier", "samples", "sampling", "complete")
        if manifests[0].get(key) != manifests[1].get(key)
    ]
    return {
        "who": who,
        "runs": [str(place) for place in places],
        **paired(first, [second[place] for place in order], sorts),
        "notes": notes,
    }
