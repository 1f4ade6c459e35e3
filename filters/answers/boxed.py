r"""Boxed final answers: what the last `\boxed{...}` of a text hold."""

from __future__ import annotations

import re

from synth.core.text.boxed import boxes

# What may stand between two boxes that are one answer, and what has to.
_JOINT = re.compile(r"(?:[\s$,;.，、。；()\[\]\\]|\band\b|\bor\b|和|或|与)*")
_AND = re.compile(r"[,;，、；和或与]|and|or")


def final_boxes(answer: str) -> list[str]:
    r"""Returns what the last boxes of an answer hold: one, or several that are given together.

    >>> final_boxes(r"First \boxed{1}. So $\boxed{2}$ and $\boxed{3}$.")
    ['2', '3']
    """
    filled = [box for box in boxes(answer) if box[2].strip()]
    first = len(filled) - 1
    while first > 0 and _joined(answer[filled[first - 1][1] : filled[first][0]]):
        first -= 1
    together = filled[max(0, first) :]
    # A box that is given twice over is one answer.
    contents = list(dict.fromkeys(_innermost(content) for _, _, content in together))
    return contents if len(contents) <= 5 else contents[-1:]


def _innermost(content: str) -> str:
    """What a box holds, or the last box within it where there is one."""
    last = content.rfind("\\boxed")
    inner = boxes(content[last:]) if last >= 0 else []
    return (inner[0][2].strip() if inner else "") or content.strip()


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes them one answer."""
    return (
        len(between) <= 20
        and "\n\n" not in between
        and _JOINT.fullmatch(between) is not None
        and _AND.search(between) is not None
    )


def final_answer(text: str) -> str | None:
    r"""Returns an answer's last boxes, joined by a comma; None where it has no box.

    >>> final_answer(r"Either \boxed{2} or \boxed{3}.")
    '2, 3'
    """
    return ", ".join(final_boxes(text)) or None


def bare_reference(text: str) -> str:
    r"""Returns a reference answer without the worked solution or the box around it.

    >>> bare_reference("6 * 7 = 42 #### 42")
    '42'
    """
    last = text.rpartition("####")[2].strip()
    return final_answer(last) or last
