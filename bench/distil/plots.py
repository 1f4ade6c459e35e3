"""Tables and plots of what soft.py and two_teachers.py have written.

.venv/bin/python bench/distil/plots.py                   prints the tables, writes them and the plots to docs/

Each arm is held against the first one, and `ARM, more` against ARM, by seeds (Student's t over their differences) and by
questions (each question's mean over the seeds, a permutation test).
"""

import statistics
from pathlib import Path

from common import IMAGES, RESULTS, dot_plot, over_seeds, read

from sft.evaluation.statistics import compare

PAGE = Path(__file__).parents[2] / "docs" / "results-distil.md"
AXES = {"backwards": "letters to turn around", "letters": "letters to sort", None: "both skills"}


def by_arm(rows):
    """What was measured of teachers, and of each arm by seed, in the order of the file."""
    arms = {}
    for row in rows:
        arms.setdefault(row["arm"], {})[row["seed"]] = row["held_out"]
    teachers = {arm: found[0] for arm, found in arms.items() if 0 in found}
    return teachers, {arm: found for arm, found in arms.items() if 0 not in found}


def value(held_out, skill, what):
    """One figure of one run, over one skill or (None) the mean over all."""
    skills = [skill] if skill else list(held_out)
    return statistics.fmean(statistics.fmean(held_out[s][what]) for s in skills)


def by_question(runs, skill, what):
    """Each question's mean over the seeds."""
    skills = [skill] if skill else list(runs[0])
    columns = zip(*([x for s in skills for x in run[s][what]] for run in runs), strict=True)
    return [statistics.fmean(column) for column in columns]


def spread(values, show):
    """Mean and interval as text."""
    mean, limits = over_seeds(values)
    return show(mean) + (f" ({show(limits[0])} to {show(limits[1])})" if limits else "")


def percent(x):
    return f"{100 * x:.1f}"


def nats(x):
    return f"{x:.4f}"


def difference(base, runs, skill, what, show):
    """How much more than the base, by seeds and by questions."""
    gaps = [value(b, skill, what) - value(a, skill, what) for a, b in zip(base, runs, strict=True)]
    one, other = by_question(base, skill, what), by_question(runs, skill, what)
    if what == "right":
        found = compare(one, other)
        pooled = f"{show(found.low)} to {show(found.high)}, p {found.p:.2g}"
    else:
        # Nats have no bound; the interval is Student's t over questions.
        moved = [b - a for a, b in zip(one, other, strict=True)]
        pooled = spread(moved, show).partition(" ")[2].strip("()")
    return f"{spread(gaps, show)}; by questions {pooled}"


def table(rows, skill, base_name):
    """Markdown of one skill, or (None) of all together: the arms that are held against a base."""
    teachers, every = by_arm(rows)
    students = {arm: found for arm, found in every.items() if base_of(arm, every) == base_name}
    base = every[base_name]
    students = {base_name: base, **students}
    lines = [
        f"| {AXES[skill]} | seeds | right, % | more than {base_name} | held-out loss "
        f"| more than {base_name} |",
        "|---|---|---|---|---|---|",
    ]
    for arm, held_out in teachers.items() if base_name == next(iter(every)) else ():
        loss, right = (value(held_out, skill, what) for what in ("losses", "right"))
        lines.append(f"| {arm} | | {percent(right)} | | {nats(loss)} | |")
    for arm, found in students.items():
        seeds = sorted(found.keys() & base.keys())
        if not seeds:
            continue
        runs, same = [found[seed] for seed in seeds], [base[seed] for seed in seeds]
        cells = []
        for what, show in (("right", percent), ("losses", nats)):
            cells.append(spread([value(run, skill, what) for run in runs], show))
            cells.append("" if found is base else difference(same, runs, skill, what, show))
        lines.append(f"| {arm} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def base_of(arm, arms):
    """The arm that another one is held against."""
    shorter = arm.partition(",")[0]
    return shorter if shorter != arm and shorter in arms else next(iter(arms))


def plots(name, students, skill):
    """Draws accuracy and loss, and gives the Markdown that shows them."""
    shown = []
    for what, text, *formats in (
        ("right", "held-out questions answered rightly"),
        ("losses", "held-out loss, nats a token", "{:.4f}", "{:g}"),
    ):
        drawn = [
            (arm, [value(run, skill, what) for run in found.values()])
            for arm, found in students.items()
        ]
        base = statistics.fmean(drawn[0][1]), drawn[0][0]
        file = f"distil-{name}-{skill or 'all'}-{what}.svg"
        (IMAGES / file).write_text(dot_plot(drawn, f"{text}: {AXES[skill]}", base, *formats))
        shown.append(f"![{text}: {AXES[skill]}](img/{file})\n")
    return "\n".join(shown)


def main():
    IMAGES.mkdir(parents=True, exist_ok=True)
    page = PAGE.read_text()
    for name, skills in (("soft", ["letters"]), ("two_teachers", ["backwards", "letters", None])):
        rows = read(RESULTS / f"{name}.jsonl")
        _, students = by_arm(rows)
        if not students:
            continue
        bases = dict.fromkeys(base_of(arm, students) for arm in students)
        tables = [table(rows, skill, base) for base in bases for skill in skills]
        print("\n".join(tables))
        parts = [*tables, *(plots(name, students, skill) for skill in skills)]
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, _, rest = page.partition(start)
        page = before + start + "\n" + "\n".join(parts) + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
