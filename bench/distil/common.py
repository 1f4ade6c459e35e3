"""What the experiments on distillation share: results as JSON lines, intervals, a plot of seeds."""

import json
import math
import statistics
from pathlib import Path

from markupsafe import Markup
from scipy.special import stdtrit

from synth.report.charts import Scale, ticks

SEEDS = (1, 2, 3)
RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[2] / "docs" / "img"

_STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; background: #fff; }
text { fill: #646a75; } .name, .value { fill: #1d2026; } .value { font-weight: 600; }
.grid { stroke: #ebe8e2; } .dot { fill: #2f6690; fill-opacity: .65; }
.whisker { stroke: #1d2026; stroke-width: 1.5; fill: none; }
.base { stroke: #c98a5b; stroke-dasharray: 4 3; }
"""


def read(path):
    """The rows of a results file; none where there is none yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path, row):
    """Adds one row, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def over_seeds(values):
    """Mean, and its 95% interval by Student's t over the seeds (None where there is one seed)."""
    mean, number = statistics.fmean(values), len(values)
    if number < 2:
        return mean, None
    half = stdtrit(number - 1, 0.975) * statistics.stdev(values) / math.sqrt(number)
    return mean, (mean - half, mean + half)


def dot_plot(rows, axis, base=None, show="{:.1%}", tick="{:.0%}"):
    """An SVG with a dot a seed, and the interval of their mean as a whisker.

    Args:
        rows: Name of each variant and the values of its seeds, none below 0.
        axis: What the values are.
        base: Where a dashed line goes, and what it says; or None.
        show: How a mean is written, and `tick` a value on the axis.
    """
    row_height, top, bottom = 42, 26, 46
    left = 24 + 7.5 * max(len(name) for name, _ in rows)
    width, height = 820, top + row_height * len(rows) + bottom
    drawn = [(name, values, *over_seeds(values)) for name, values in rows]
    ends = [end for _, values, _, limits in drawn for end in (*values, *(limits or ()))]
    ends += [base[0]] if base else []
    margin = 0.05 * (max(ends) - min(ends)) or 0.03
    low, high = max(0.0, min(ends) - margin), max(ends) + margin
    x, floor = Scale(low, high, left, width - 76), height - bottom
    parts = [
        Markup(
            '<path class="grid" d="M{0} {1}V{2}"/><text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
        ).format(x(value), top - 8, floor, floor + 18, tick.format(value))
        for value in ticks(low, high, 8)
    ]
    if base:
        parts.append(
            Markup(
                '<path class="base" d="M{0} {1}V{2}"/>'
                '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
            ).format(x(base[0]), top - 8, floor, top - 12, base[1])
        )
    for index, (name, values, mean, limits) in enumerate(drawn):
        y = top + row_height * (index + 0.5)
        parts.append(
            Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>').format(
                left - 14, y + 4, name
            )
        )
        if limits:
            parts.append(
                Markup('<path class="whisker" d="M{0} {2}H{1}M{0} {3}v12M{1} {3}v12"/>').format(
                    x(limits[0]), x(limits[1]), y, y - 6
                )
            )
        parts.append(
            Markup('<path class="whisker" d="M{} {}v22"/>').format(x(mean), y - 11),
        )
        parts += [
            Markup('<circle class="dot" cx="{}" cy="{}" r="5"/>').format(x(value), y)
            for value in values
        ]
        parts.append(
            Markup('<text class="value" x="{}" y="{}">{}</text>').format(
                width - 62, y + 4, show.format(mean)
            )
        )
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (x.start + x.end) / 2, height - 8, axis
        )
    )
    label = f"{axis}: " + "; ".join(f"{name} {show.format(mean)}" for name, _, mean, _ in drawn)
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}"'
        ' role="img" aria-label="{2}"><style>{3}</style>{4}</svg>\n'
    ).format(width, height, label, Markup(_STYLE), Markup("\n").join(parts))
