"""Drops traces that go round in circles: a loop at the end, or much said more than once.

The defaults were set on 800 real traces (a mathematics model on 100 MATH questions, 132 to 2,827
words, marks counted) and 500 solutions written by people: they drop none of either. There the share
of 30-word runs seen before is at most 0.23 and 0.32, the end repeats itself at most 1.3 times, and
text over 2,000 bytes compresses to 0.207 or more. Longer traces than these were not at hand.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence

from pydantic import Field

from filters._text import words
from filters.contract import Check, Context, Decision
from synth.plugins import PluginConfig
from synth.record import Record

# A share or a ratio of a shorter text says little: three equal lines of algebra are no loop.
_WORDS_TO_JUDGE = 100
_BYTES_TO_JUDGE = 2000
_MODULUS = (1 << 61) - 1
_BASE = 1_000_003


class Config(PluginConfig):
    """Options of `repetition`."""

    words: int = Field(30, ge=4, le=200, description="Length of the runs of words compared")
    share_max: float = Field(
        0.35, ge=0, le=1, description="Largest share of such runs that stood before in the text"
    )
    cycles_max: float = Field(
        3, ge=2, description="Drop where the text ends in a cycle gone through this often"
    )
    cycle_words: int = Field(
        60, ge=10, description="Words that the repetitions of such a cycle have to fill"
    )
    compression_min: float = Field(
        0.13, ge=0, le=1, description="Smallest compressed size of a text over 2,000 bytes; 0: off"
    )


def build(config: Config, context: Context) -> Check:
    """The check. Reasoning and answer are judged apart, since an answer may restate the reasoning.

    A Chinese, Japanese or Korean character counts as a word, and so does a mark, so a script
    without spaces needs nothing else. The share is not asked of a text under 100 words, nor the
    compression of one under 2,000 bytes. A loop that counts (`try n = 7 ... try n = 8`) repeats no
    run of words; only its compression gives it away, and not where it says little else. The time
    is linear in the text. The score is the larger of the two shares.
    """

    def check(record: Record) -> Decision:
        score = 0.0
        for place, text in (("reasoning", record.reasoning or ""), ("answer", record.answer)):
            tokens = words(text)
            period, cycles = tail_cycle(tokens, config.cycle_words)
            share = repeated_share(tokens, config.words) if len(tokens) >= _WORDS_TO_JUDGE else 0.0
            score = max(score, share)
            if cycles >= config.cycles_max:
                return Decision(
                    False, f"loop: {place} ends in {cycles:.0f} times {period} words", score
                )
            if share > config.share_max:
                return Decision(False, f"repetitive: {share:.0%} of the {place} seen before", score)
            ratio = compression(text)
            if ratio < config.compression_min:
                return Decision(False, f"repetitive: {place} compresses to {ratio:.1%}", score)
        return Decision(True, "", score)

    return check


def repeated_share(tokens: Sequence[Hashable], n: int) -> float:
    """Which share of the runs of n tokens stood before in the text; 0 where there is no run.

    >>> repeated_share("abcabcabc", 3)
    0.5714285714285714
    """
    total = len(tokens) - n + 1
    if total < 1:
        return 0.0
    # A rolling hash instead of n-tuples: time and memory do not grow with n.
    codes: dict[Hashable, int] = {}
    numbers = [codes.setdefault(token, len(codes) + 1) for token in tokens]
    leaving = pow(_BASE, n, _MODULUS)
    seen: set[int] = set()
    run = 0
    for index, number in enumerate(numbers):
        run = (run * _BASE + number) % _MODULUS
        if index >= n:
            run = (run - numbers[index - n] * leaving) % _MODULUS
        if index >= n - 1:
            seen.add(run)
    return 1 - len(seen) / total


def tail_cycle(tokens: Sequence[Hashable], least: int = 0) -> tuple[int, float]:
    """The cycle that the end of a text repeats most often: its length, and how often.

    The last time round may be cut off, as it is where a limit on tokens ended a loop. Cycles whose
    repetitions fill fewer than `least` tokens do not count. (0, 1.0) where nothing repeats.

    >>> tail_cycle("so xyzxyzxy")
    (3, 2.6666666666666665)
    """
    backwards = tokens[::-1]
    best = (0, 1.0)
    # The text ends in a cycle of p tokens for as long as it equals itself moved by p.
    for period, more in enumerate(_prefix_lengths(backwards)):
        if more and period + more >= least and (period + more) / period > best[1]:
            best = (period, (period + more) / period)
    return best


def _prefix_lengths(tokens: Sequence[Hashable]) -> list[int]:
    """For each place but the first, how many tokens there equal those at the start (Z array)."""
    lengths = [0] * len(tokens)
    start = end = 0  # the stretch known to equal the start that reaches farthest
    for i in range(1, len(tokens)):
        k = min(end - i, lengths[i - start]) if i < end else 0
        while i + k < len(tokens) and tokens[k] == tokens[i + k]:
            k += 1
        lengths[i] = k
        if i + k > end:
            start, end = i, i + k
    return lengths


def compression(text: str) -> float:
    """Compressed size over size, or 1 for a text too short to tell."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw)) / len(raw) if len(raw) >= _BYTES_TO_JUDGE else 1.0
