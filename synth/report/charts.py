"""Charts as inline SVG: a few shapes with labelled axes, coloured by the page's style sheet.

Each chart is drawn for a width in pixels rather than scaled, so that its letters keep their size;
the report draws it once for a screen and once for a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

MOST_POINTS = 400  # more than a screen has would only make the file large
MOST_BINS = 30


@dataclass(frozen=True)
class Scale:
    """Maps the values from `low` to `high` onto the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Returns the pixel of a value."""
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 2)


def nice_step(span: float, parts: int) -> float:
    """Returns the least of 1, 2, 5, 10, 20, ... (and their tenths) with so many parts at most."""
    if not (span > 0 and math.isfinite(span)):
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / parts))
    return next(f * power for f in (1, 2, 5, 10) if span / (f * power) <= parts + 1e-9)


def ticks(low: float, high: float, parts: int = 5) -> list[float]:
    """Returns round values between two bounds.

    >>> ticks(0.3, 2.1)
    [0.5, 1.0, 1.5, 2.0]
    """
    step = nice_step(high - low, parts)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def loss_curve(points: Sequence[tuple[int, float]], width: int) -> Markup:
    """Draws the training loss by step; a loss that is not a finite number leaves a gap."""
    finite = [loss for _, loss in points if math.isfinite(loss)]
    if not finite:
        return Markup()
    drawn = thinned(points)
    pad = (max(finite) - min(finite)) * 0.06 or 0.1
    frame = _Frame(width, 240, left=54, bottom=42)
    x = frame.x(drawn[0][0], max(drawn[-1][0], drawn[0][0] + 1))
    y = frame.y(max(0.0, min(finite) - pad), max(finite) + pad)
    lines: list[list[str]] = [[]]
    for step, loss in drawn:
        if math.isfinite(loss):
            lines[-1].append(f"{x(step)},{y(loss)}")
        else:
            lines.append([])
    shapes = [
        # A stretch of one point would be invisible as a line.
        Markup('<polyline class="line" points="{}"/>').format(" ".join(line))
        if len(line) > 1
        else Markup('<circle class="dot" cx="{}" cy="{}" r="3"/>').format(*line[0].split(","))
        for line in lines
        if line
    ]
    label = f"Training loss from {finite[0]:.3f} to {finite[-1]:.3f}"
    whole = [t for t in ticks(x.low, x.high, 6) if t == int(t)]
    return frame.draw(label, shapes, x, whole, "step", y, "loss, nats a token")


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Returns at most `MOST_POINTS` points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(step for step, _ in g) / len(g), sum(loss for _, loss in g) / len(g)) for g in groups
    ]


def histogram(series: Mapping[str, Mapping[int, int]], width: int) -> Markup:
    """Draws how many traces have which length: one stacked bar a bin, one colour a series.

    A series is named by its colour's CSS class, and says how often each value occurs.
    """
    values = [value for counts in series.values() for value in counts]
    if not values:
        return Markup()
    low, high = min(values), max(values)
    step = max(1, int(nice_step(max(high - low, 1), MOST_BINS)))
    first, last = low // step, high // step
    bins = {name: [0] * (last - first + 1) for name in series}
    for name, counts in series.items():
        for value, count in counts.items():
            bins[name][value // step - first] += count
    tallest = max(map(sum, zip(*bins.values(), strict=True)))
    frame = _Frame(width, 220, left=54, bottom=42)
    x = frame.x(first * step, (last + 1) * step)
    y = frame.y(0, tallest * 1.06)
    shapes = []
    for index in range(last - first + 1):
        left, right = x((first + index) * step), x((first + index + 1) * step)
        top = y(0)
        for name, counted in bins.items():
            if counted[index]:
                height = y(0) - y(counted[index])
                top -= height
                start = (first + index) * step
                hint = f"{start:,} to {start + step - 1:,} tokens: {counted[index]:,} {name}"
                shapes.append(_rect(name, left + 0.5, top, right - left - 1, height, hint))
    total = sum(sum(counts.values()) for counts in series.values())
    label = f"Lengths of {total:,} traces, from {low:,} to {high:,} tokens"
    whole = [t for t in ticks(0, y.high, 4) if t == int(t)]
    lengths = ticks(x.low, x.high, max(3, width // 100))
    return frame.draw(label, shapes, x, lengths, "tokens, reasoning included", y, "traces", whole)


def accuracies(rows: Sequence[tuple[str, str, float, float, float]], width: int) -> Markup:
    """Draws a bar for each who was evaluated, with its 95% interval as a whisker.

    A row has title, CSS class, accuracy, and the interval's two ends, all shares of 1.
    """
    row_height = 40
    left = 8 + max(len(title) for title, *_ in rows) * 7
    frame = _Frame(width, 50 + row_height * len(rows), left=left, bottom=42, right=58)
    highest = max(high for *_, high in rows)
    x = frame.x(0, min(1.0, max(0.05, math.ceil(highest * 20 - 1e-9) / 20)))
    shapes = []
    for index, (title, kind, share, low, high) in enumerate(rows):
        middle = 8 + row_height * (index + 0.5)
        hint = f"{title}: {share:.1%}, 95% interval {low:.1%} to {high:.1%}"
        shapes += [
            _text("name", left - 10, middle + 4, title, "end"),
            _rect(kind, x(0), middle - 10, x(share) - x(0), 20, hint),
            # The halo keeps the whisker visible on a bar of any colour.
            *(_whisker(line, x(low), x(high), middle) for line in ("halo", "whisker")),
            _text("value", max(x(high), x(share)) + 8, middle + 4, f"{share:.1%}", "start"),
        ]
    label = "Accuracy: " + "; ".join(f"{title} {share:.1%}" for title, _, share, *_ in rows)
    return frame.draw(label, shapes, x, ticks(0, x.high), "answered right", percent=True)


def bar(passed: int, dropped: int, total: int) -> Markup:
    """Draws what passed a filter, what it dropped, and room for what was dropped before."""
    x = Scale(0, total, 0, 100)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"'
        ' aria-label="{}">{}{}</svg>'
    ).format(
        f"{passed:,} of {total:,} pass",
        _rect("kept", 0, 0, x(passed), 10),
        _rect("rejected", x(passed), 0, x(passed + dropped) - x(passed), 10),
    )


@dataclass(frozen=True)
class _Frame:
    """The drawing's size, and the margins in which the axes are labelled."""

    width: int
    height: int
    left: int
    bottom: int
    top: int = 8
    right: int = 14

    def x(self, low: float, high: float) -> Scale:
        return Scale(low, high, self.left, self.width - self.right)

    def y(self, low: float, high: float) -> Scale:
        return Scale(low, high, self.height - self.bottom, self.top)

    def draw(
        self,
        label: str,
        shapes: Iterable[Markup],
        x: Scale,
        x_ticks: Sequence[float],
        x_name: str,
        y: Scale | None = None,
        y_name: str = "",
        y_ticks: Sequence[float] | None = None,
        percent: bool = False,
    ) -> Markup:
        """Draws the whole: grid and numbers first, the shapes over them."""
        floor = self.height - self.bottom
        parts = []
        for tick, number in zip(x_ticks, _numbers(x_ticks, percent), strict=True):
            parts.append(_line(x(tick), floor, x(tick), floor + 4 if y else self.top))
            parts.append(_text("tick", x(tick), floor + 17, number, "middle"))
        parts.append(_text("axis", (x.start + x.end) / 2, self.height - 6, x_name, "middle"))
        if y is not None:
            y_ticks = ticks(y.low, y.high) if y_ticks is None else y_ticks
            for tick, number in zip(y_ticks, _numbers(y_ticks), strict=True):
                parts.append(_line(x.start, y(tick), x.end, y(tick)))
                parts.append(_text("tick", x.start - 8, y(tick) + 4, number, "end"))
            parts.append(_line(x.start, floor, x.end, floor))
            title = Markup(
                '<text class="axis" text-anchor="middle" transform="translate({} {}) {}">{}</text>'
            )
            parts.append(title.format(12, (y.start + y.end) / 2, "rotate(-90)", y_name))
        return Markup(
            '<svg class="chart" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img"'
            ' aria-label="{2}">{3}</svg>'
        ).format(self.width, self.height, label, Markup().join([*parts, *shapes]))


def _numbers(values: Sequence[float], percent: bool = False) -> list[str]:
    """Returns the numbers of an axis, all with as many decimals as the one that needs most."""
    if percent:
        return [f"{100 * value:.10g}%" for value in values]
    decimals = max((len(f"{v:.10f}".rstrip("0").partition(".")[2]) for v in values), default=0)
    return [f"{value:,.{decimals}f}" for value in values]


def _line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path class="grid" d="M{} {}L{} {}"/>').format(x1, y1, x2, y2)


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, round(x, 2), round(y, 2), anchor, text
    )


def _whisker(kind: str, low: float, high: float, y: float) -> Markup:
    path = Markup('<path class="{}" d="M{low} {y}H{high}M{low} {top}v10M{high} {top}v10"/>')
    return path.format(kind, low=low, high=high, y=y, top=y - 5)


def _rect(kind: str, x: float, y: float, width: float, height: float, title: str = "") -> Markup:
    hint = Markup("<title>{}</title>").format(title) if title else Markup()
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
        kind, round(x, 2), round(y, 2), round(max(width, 0), 2), round(max(height, 0), 2), hint
    )
