"""What each filter of the quickstart is worth: its student with one filter left out at a time.

    .venv/bin/python bench/distil/filter_worth.py             runs what the results lack, one by one
    .venv/bin/python bench/distil/filter_worth.py --table     the table and the plot of what is there

All students learn from answers that were generated once, four a question, by the same number of
optimizer steps in batches of the same size, and answer the same questions. They differ in which
answers the filters left, and in the seed that orders them. Where leaving a filter out changes
nothing in what is kept, nothing is trained.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

# Before torch is there: one thread, so that a run takes one core and always adds in one order.
os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", "HF_HUB_OFFLINE": "1"}

from common import IMAGES, RESULTS, SEEDS, append, dot_plot, over_seeds, read

from sft.evaluation.statistics import compare
from synth.config.plugin_entries import split_plugin
from synth.config.validate import load_run
from synth.core.dataset import read_split
from synth.core.record import digest
from synth.core.run_folder import RunFolder
from synth.stages.pipeline import do_stage

CONFIG = "quickstart"
STEPS = 45  # what the quickstart itself makes of its 120 traces in three epochs
OUT = RESULTS / "filters.jsonl"
WHOLE, NONE = "whole chain", "no filters"
# The training refuses a trace with no answer, so these go even where no filter is named.
TRAINABLE = [{"regex": {"must": "\\S"}}]
FIRST = ("math_answer", "think_format")  # what the quickstart's funnel says alone dropped any


def variants():
    """What is left out, in the order of what matters most, and the filters that stay."""
    chain = load_run(CONFIG)[0].filters
    by_name = {split_plugin("filter", entry)[0]: entry for entry in chain}
    found = {WHOLE: chain, NONE: TRAINABLE}
    for name in [*FIRST, *(name for name in by_name if name not in FIRST)]:
        found[f"without {name}"] = [entry for entry in chain if entry is not by_name[name]]
    return found


def overrides(runs, variant, filters, seed):
    return [
        f"name={variant.replace(' ', '-')}",
        f"runs={runs}",
        # What was kept must not decide what was asked.
        "generate.samples.until_verified=null",
        f"filters={json.dumps(filters)}",
        f"train.seed={seed}",
        f"train.max_steps={STEPS}",
        f"train.save_steps={STEPS // 3}",
    ]


def traces_of(runs, variant, filters):
    """Which traces a variant keeps: how many of how many, and a hash of them."""
    run, _ = load_run(CONFIG, overrides(runs, variant, filters, SEEDS[0]))
    made = runs / WHOLE.replace(" ", "-")
    for stage in ("tasks", "generate"):
        if (made / stage).is_dir() and not (run.folder / stage).is_dir():
            shutil.copytree(made / stage, run.folder / stage)
    for stage in ("tasks", "generate", "filter"):
        do_stage(stage, run, print)
    filtered = RunFolder(run.folder).need("filter")
    kept = [record.id for record in read_split(run.folder / "filter", "kept")]
    return {
        "variant": variant,
        "kept": len(kept),
        "of": sum(filtered["rows"].values()),
        "traces": digest(kept),
        "alone": {one["name"]: one["alone"] for one in filtered["funnel"]["filters"]},
    }


def trained(runs, variant, filters, seed):
    """Trains and evaluates by the command line, in a process of its own."""
    start = time.monotonic()
    command = [sys.executable, "-m", "synth", "run", CONFIG]
    subprocess.run([*command, *overrides(runs, variant, filters, seed)], check=True, cwd=runs)
    folder = RunFolder(runs / variant.replace(" ", "-"))
    train, evaluated = folder.need("train"), folder.need("evaluate")
    fields = ("accuracy", "per_question", "reasons", "truncated", "mean_tokens")
    return {
        "variant": variant,
        "seed": seed,
        "steps": train["steps"],
        "tokens": train["tokens"],
        "loss_tokens": train["loss_tokens"],
        "final_loss": train["final_loss"],
        "seconds": round(time.monotonic() - start),
        **{field: evaluated["results"]["after"][field] for field in fields},
        "in_form": evaluated["results"]["after"]["format"],
        "others": {who: evaluated["results"][who]["accuracy"] for who in ("before", "teacher")},
    }


def measure(runs, seeds):
    """Runs what the results lack; seeds outermost, so that each is whole before the next."""
    runs.mkdir(parents=True, exist_ok=True)
    known = {row["variant"]: row for row in read(OUT) if "seed" not in row}
    for variant, filters in variants().items():
        if variant not in known:
            known[variant] = traces_of(runs, variant, filters)
            append(OUT, known[variant])
    done = {(row["variant"], row["seed"]) for row in read(OUT) if "seed" in row}
    for seed in seeds:
        for variant, filters in variants().items():
            if (variant, seed) not in done and same_as(known, variant) is None:
                print(f"--- {variant}, seed {seed}", flush=True)
                append(OUT, trained(runs, variant, filters, seed))


def same_as(known, variant):
    """The variant before this one that keeps the same traces, or None."""
    for other, row in known.items():
        if other == variant:
            return None
        if row["traces"] == known[variant]["traces"]:
            return other
    return None


def percent(share):
    return f"{100 * share:.1f}%"


def table(rows):
    """Prints what is there as Markdown; what is not is `not measured`."""
    rows_of = {row["variant"]: row for row in rows if "seed" not in row}
    known = {name: rows_of[name] for name in variants() if name in rows_of}
    runs = {
        name: {r["seed"]: r for r in rows if r["variant"] == name and "seed" in r} for name in known
    }
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    header = ["", "traces kept", *(f"seed {seed}" for seed in seeds)]
    header += ["mean", "95% interval", "against the whole chain", "p", "in form", "cut off"]
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for name, row in known.items():
        cells = [name, f"{row['kept']} of {row['of']}"]
        by_seed, other = runs[name], same_as(known, name)
        if other:
            cells += [f"the same traces as the {other}"] + [""] * (len(header) - 3)
        elif not by_seed:
            cells += ["not measured"] + [""] * (len(header) - 3)
        else:
            scores = {seed: one["accuracy"] for seed, one in by_seed.items()}
            cells += [percent(scores[s]) if s in scores else "not measured" for s in seeds]
            mean, limits = over_seeds(list(scores.values()))
            cells += [percent(mean), " to ".join(map(percent, limits)) if limits else "one seed"]
            cells += against(runs[WHOLE], by_seed) if name != WHOLE else ["", ""]
            answers = sum(len(one["per_question"]) for one in by_seed.values())
            cut = sum(one["truncated"] for one in by_seed.values()) / answers
            form = statistics.fmean(one["in_form"]["share"] for one in by_seed.values())
            cells += [percent(form), percent(cut)]
        print("| " + " | ".join(cells) + " |")


def against(whole, other):
    """The paired difference on the questions, each scored by its mean over the seeds of both."""
    shared = sorted(whole.keys() & other.keys())
    if not shared:
        return ["not measured", ""]
    means = [
        [
            statistics.fmean(scores)
            for scores in zip(*(one[s]["per_question"] for s in shared), strict=True)
        ]
        for one in (whole, other)
    ]
    found = compare(*means)
    ends = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    return [
        f"{100 * found.difference:+.1f} points ({ends})",
        "< 0.001" if found.p < 0.001 else f"{found.p:.3f}",
    ]


def plot(rows):
    """Writes the plot; the dashed line is the teacher under its own prompt."""
    scores, teacher = {}, None
    for row in rows:
        if "seed" in row:
            scores.setdefault(row["variant"], []).append(row["accuracy"])
            teacher = row["others"]["teacher"]
    if teacher is None:
        return
    drawn = [(name, scores[name]) for name in variants() if name in scores]
    base = (teacher, f"teacher with examples {percent(teacher)}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    (IMAGES / "filters.svg").write_text(dot_plot(drawn, "held-out questions answered right", base))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/filter-worth"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        measure(given.runs.resolve(), given.seeds)
    table(read(OUT))
    plot(read(OUT))
