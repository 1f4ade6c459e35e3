"""Keeps traces that choose the right option of a multiple-choice question."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from filters._text.math import visible
from filters.base import Check, Context, Decision, FilterConfig, cannot_tell
from synth.core.record import Record
from synth.core.text.boxed import boxes
from synth.core.text.question_text import nfkc

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# A conclusion stands at the end; a text longer than that is read from there.
_TAIL = 20_000
_PHRASES = 20
_OPTION = 2_000

_JOINED = r"(?:\s*(?:,|，|、|;|/|&|and|和|与)\s*(?:and\s+)?)"
_LETTER = r"[\(\[]?[A-Z][\)\]]?"
# Several letters: joined by commas or words, or written together as Chinese exams have it.
_SEVERAL = re.compile(rf"{_LETTER}(?:{_JOINED}{_LETTER}){{0,25}}|[A-Z]{{2,8}}")
_ONE = re.compile(r"[A-Z]")
_ANNOUNCED = re.compile(
    r"(?:(?:answers?|choices?|options?)\s*(?:\([^()]{0,20}\)\s*)?"
    r"(?:is|are|:|would be|must be|should be)|"
    r"(?:答案|选项)\s*(?:为|是|:|：|应为|应该是)|选择?)[\s:：*_$\"'“「]{0,10}"
    r"(?:(?:option|choice|选项)s?\s{0,3})?",
    re.IGNORECASE,
)
_IS_RIGHT = re.compile(
    r"(?<![A-Za-z])[\(\[]?([A-Z])[\)\]]?[\s*_]{0,5}"
    r"(?:\b(?:is|would be)\s+(?:the\s+)?(?:correct|right|best)\b|(?:是|为)?正确)"
)
_LABELLED = re.compile(r"\s*(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])\s*[.:)、]|([A-Z])\s*$)\s*")
_MARKUP = re.compile(r"\\(?:text(?:bf|rm|it)?|math(?:rm|bf))\{([^{}]*)\}")
_NOISE = re.compile(r"[*_`$]|\\[()\[\]]|\\(?:left|right|,|;|!| )")


class Config(FilterConfig):
    """Options of `choice`."""

    verifies = True

    choices: str | None = Field(
        None, description="The metadata that holds the options; by default `choices` or `options`"
    )
    reference: Literal["auto", "letter", "index", "text"] = Field(
        "auto", description="What the reference answer is; auto says so where it cannot know"
    )
    first_index: Literal[0, 1] = Field(
        0, description="The index of the first option, where the reference is an index"
    )


class Choice(NamedTuple):
    """Which options a text names: their letters, and where it says so."""

    letters: frozenset[str]
    by: str


def build(config: Config, context: Context) -> Check:
    r"""The check.

    What counts is, in this order: the last `\boxed{...}`; the last phrase such as "the answer is
    B", "故选 B" or "B is correct"; the last line, where it is a letter or the text of an option. A
    letter is a capital one (or any in a box or in brackets) and one that the question has; the text
    of an option counts as its letter where no other option has the same.
    """

    def check(record: Record) -> Decision:
        options = options_of(record.task.metadata, config.choices)
        right = reference_letters(record.task.answer, options, config)
        if isinstance(right, str):
            return cannot_tell(right)
        answer = visible(record.answer[-_TAIL:])
        if not answer.strip():
            return Decision(False, "no answer found")
        choice = chosen(answer, options)
        if choice is None:
            return cannot_tell("no option found in the answer")
        got, expected = "".join(sorted(choice.letters)), "".join(sorted(right))
        evidence = {"answer": got, "reference": expected, "by": choice.by}
        if choice.letters == right:
            return Decision(True, "", 1.0, None, evidence)
        return Decision(False, f"wrong choice: got {got}, expected {expected}", 0.0, None, evidence)

    return check


def options_of(metadata: Mapping[str, Any], key: str | None = None) -> dict[str, str]:
    """The options of a question by letter; empty where the metadata holds none that can be read.

    They are a list of texts (with or without labels), a list of `{label, text}`, a mapping from
    label to text, or one of two lists, `label` and `text`.

    >>> options_of({"choices": {"label": ["A", "B"], "text": ["yes", "no"]}})
    {'A': 'yes', 'B': 'no'}
    """
    names = [key] if key else ["choices", "options"]
    value = next((metadata[name] for name in names if metadata.get(name)), None)
    if isinstance(value, Mapping):
        labels, texts = value.get("label"), value.get("text")
        if isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts):
            return _lettered(labels, texts)
        return _lettered(list(value), list(value.values()))
    if not isinstance(value, list):
        return {}
    if all(isinstance(item, Mapping) for item in value):
        return _lettered([x.get("label") for x in value], [x.get("text") for x in value])
    labels = list(LETTERS[: len(value)])
    labelled = [_label(str(text)) for text in value]
    if [label for label, _ in labelled] == labels:
        return _lettered(labels, [text for _, text in labelled])
    return _lettered(labels, value)


def _label(text: str) -> tuple[str, str]:
    """The letter that an option begins with, as in `(A) yes` or `A. yes`, and what follows."""
    match = _LABELLED.match(text)
    if match is None:
        return "", text
    return next(filter(None, match.groups()), ""), text[match.end() :]


def _lettered(labels: list[Any], texts: list[Any]) -> dict[str, str]:
    """Options under capital letters; labels that are none (1, 2, 3) become letters in order."""
    names = [str(label).strip(" ().").upper() for label in labels]
    if any(len(name) != 1 or name not in LETTERS for name in names):
        names = list(LETTERS[: len(labels)])
    if len(texts) > len(LETTERS) or len(set(names)) < len(names):
        return {}
    return {name: str(text)[:_OPTION] for name, text in zip(names, texts, strict=True)}


def reference_letters(
    reference: Any, options: Mapping[str, str], config: Config
) -> frozenset[str] | str:
    """The letters that a reference names, or why it names none for certain."""
    text = visible(str(reference if reference is not None else "")).strip()[:_TAIL]
    if not text:
        return "no reference answer"
    text = _bare(boxes(text)[-1][2] if boxes(text) else text)
    readings: dict[str, frozenset[str]] = {}
    kind = config.reference
    if kind in ("auto", "letter") and (letters := _letters(text, options, True)):
        readings["letter"] = letters
    if kind in ("auto", "index") and text.isdecimal() and len(text) < 3:
        index = int(text) - config.first_index
        if 0 <= index < len(options):
            readings["index"] = frozenset([list(options)[index]])
    if kind in ("auto", "text") and (letter := _by_text(text, options)):
        readings["text"] = frozenset([letter])
    if not readings:
        return "the reference names no option"
    if len(set(readings.values())) > 1:
        return f"the reference may be {' or '.join(readings)}; say which with `reference`"
    return next(iter(readings.values()))


def chosen(answer: str, options: Mapping[str, str]) -> Choice | None:
    """The options that an answer names in the end; None where it names none for certain."""
    filled = [box for _, _, box in boxes(answer) if box.strip()]
    if filled:
        return _read(filled[-1], options, "box")
    ends = [match.end() for match in _ANNOUNCED.finditer(answer)]
    for end in reversed(ends[-_PHRASES:]):
        if choice := _read_start(answer[end : end + 200], options):
            return choice
    right = [match[1] for match in _IS_RIGHT.finditer(answer) if _known(match[1], options)]
    if right:
        return Choice(frozenset(right[-1]), "phrase")
    return _read(answer.rstrip().rpartition("\n")[2][-2000:], options, "last line")


def _read(text: str, options: Mapping[str, str], by: str) -> Choice | None:
    """What a text says that is an answer and nothing else."""
    bare = _bare(text)
    letters = _letters(bare, options, True)
    if not letters and (letter := _label(bare)[0]) and _known(letter, options):
        letters = frozenset([letter])
    if not letters and (named := _by_text(bare, options)):
        return Choice(frozenset([named]), f"text of an option in the {by}")
    return Choice(letters, by) if letters else None


def _read_start(text: str, options: Mapping[str, str]) -> Choice | None:
    """What stands behind "the answer is": letters, or the text of an option."""
    line = _bare(text.lstrip().partition("\n")[0])
    if letters := _letters(line, options, True):
        return Choice(letters, "phrase")
    match = _SEVERAL.match(line)
    whole = match and not line[match.end() : match.end() + 1].isalnum()
    if match and whole and (letters := _letters(match[0], options, False)):
        return Choice(letters, "phrase")
    for end in (line, *(line.partition(stop)[0] for stop in (". ", ", ", "。"))):
        if letter := _by_text(end, options):
            return Choice(frozenset([letter]), "text of an option in a phrase")
    return None


def _letters(text: str, options: Mapping[str, str], any_case: bool) -> frozenset[str]:
    """The letters that make up a text, all of them known; none where it is made of more."""
    text = text.strip().rstrip(".。")
    if any_case and len(text.strip("()[]")) == 1:
        text = text.upper()
    if not _SEVERAL.fullmatch(text):
        return frozenset()
    letters = frozenset(_ONE.findall(text))
    return letters if all(_known(letter, options) for letter in letters) else frozenset()


def _known(letter: str, options: Mapping[str, str]) -> bool:
    return letter in options if options else letter in LETTERS[:10]


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The one option whose text this is."""
    wanted = _folded(text)
    letters = [letter for letter, option in options.items() if _folded(option) == wanted]
    return letters[0] if wanted and len(letters) == 1 else None


def _bare(text: str) -> str:
    """A text without typesetting, with the signs of full width made plain."""
    text = nfkc(text[:_TAIL])
    return _NOISE.sub("", _MARKUP.sub(r"\1", text)).strip()


def _folded(text: str) -> str:
    return " ".join(_bare(text).casefold().split()).strip(" .。\"'")[:_TAIL]
