"""The state of a run: its headline, stages out of date, and changes of its config since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from synth.config.run import Run, questions_of, traces_of
from synth.core.text.changes import changes
from synth.report.page_format import signed


def out_of_date_stages(run: Run, done: Mapping[str, Any]) -> set[str]:
    """Returns the stages whose result was made from something that has been made anew since."""
    outdated: set[str] = set()
    made_from = {
        "augment": {"tasks": "tasks"},
        "generate": {"tasks": questions_of(run)},
        "rewrite": {"generate": "generate"},
        "filter": {"generate": traces_of(run), "eval": "tasks"},
        "label": {"filter": "filter"},
        "train": {"filter": "filter", "labels": "label"},
        "evaluate": {"questions": "tasks", "after": "train"},
    }
    for stage, sources in made_from.items():
        inputs = (done[stage] or {}).get("inputs", {})
        for key, source in sources.items():
            now = (done[source] or {}).get("content")
            if key in inputs and (inputs[key] != now or (source in outdated and now is not None)):
                outdated.add(stage)
    return outdated


def config_changes(run: Run, done: Mapping[str, Any]) -> Iterator[str]:
    """Yields how the config differs from the one that the finished stages ran with."""
    for stage, sections in {
        "tasks": ("tasks", "seed"),
        "generate": ("generate",),
        "train": ("student", "train"),
        "evaluate": ("student", "evaluate"),
    }.items():
        inputs = (done[stage] or {}).get("inputs", {})
        now = run.model_dump(mode="json", include=set(sections))
        if run.generate is not None and "generate" in now:
            now["generate"] = run.generate.decisive()
        for section in sections:
            before, after = inputs.get(section), now[section]
            if isinstance(before, dict) and isinstance(after, dict):
                # What a stage does not depend on, such as a batch size, is not among its inputs.
                after = {key: value for key, value in after.items() if key in before}
            if section in inputs:
                lines = changes({section: before}, {section: after})
                yield from (f"{stage}: {line}" for line in lines)


def headline(run: Run, done: Mapping[str, Any]) -> str:
    """Returns the result in one sentence, as far as there is one."""
    if evaluated := done["evaluate"]:
        return _measured(evaluated)
    if trained := done["train"]:
        return (
            f"The student was trained on {trained['examples']:,} traces; it has not been evaluated."
        )
    if filtered := done["filter"]:
        kept, total = filtered["funnel"]["kept"], filtered["funnel"]["total"]
        return f"{kept:,} of {total:,} traces were kept; no student has been trained."
    if generated := done["generate"]:
        return (
            f"The teachers gave {generated['rows']['train']:,} traces; they have not been filtered."
        )
    if imported := done["import"]:
        return f"{imported['rows']['train']:,} traces were read; they have not been filtered."
    if tasks := done["tasks"]:
        return f"{tasks['rows']['train']:,} questions are ready; no teacher has been asked."
    return "Nothing has been done yet."


def _measured(evaluated: Mapping[str, Any]) -> str:
    results, questions = evaluated["results"], evaluated["questions"]
    now = results.get("after") or results["before"]
    interval = f"(95% interval {100 * now['low']:.1f} to {100 * now['high']:.1f})"
    answers = (
        f"The student answers {now['accuracy']:.1%} of {questions:,} held-out questions {interval}"
    )
    difference = evaluated.get("difference")
    if "after" not in results or not difference:
        return f"{answers}; it was not trained." if "after" not in results else f"{answers}."
    points = signed(100 * difference["difference"])
    low, high = 100 * difference["low"], 100 * difference["high"]
    clear = low > 0 or high < 0
    ends = f"{low:.1f} to {high:.1f}" if low > 0 else f"{signed(low)} to {signed(high)}"
    change = f"{points} points ({ends})" + ("" if clear else ", no measurable change")
    return f"{answers}, {results['before']['accuracy']:.1%} before training: {change}."
