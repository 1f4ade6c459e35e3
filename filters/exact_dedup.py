"""Drops records that say the same as one kept before, case and white space aside."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

from pydantic import Field

from filters.contract import KEEP, Check, Context, Decision
from synth.plugins import PluginConfig
from synth.record import Record

LEVEL = "set"


class Config(PluginConfig):
    """Options of `exact_dedup`."""

    on: Literal["question", "trace", "question_and_trace"] = Field(
        "question_and_trace",
        description="What has to be the same; `question` leaves one trace of each question",
    )


def build(config: Config, context: Context) -> Check:
    """The check, which remembers what it kept: 32 bytes and an id a record.

    Texts are compared after NFKC, case folding and with every run of white space as one blank.
    Reasoning and answer count as a pair: the same words split elsewhere are not the same trace,
    and no reasoning is not empty reasoning.
    """
    kept: dict[bytes, str] = {}

    def check(record: Record) -> Decision:
        parts: list[str | None] = []
        if config.on != "trace":
            parts.append(record.task.question)
        if config.on != "question":
            parts += [record.reasoning, record.answer]
        key = _digest(parts)
        first = kept.setdefault(key, record.id)
        # The same record met again (a rerun over one chain) is no duplicate of itself.
        return KEEP if first == record.id else Decision(False, f"duplicate: of {first}")

    return check


def _digest(parts: list[str | None]) -> bytes:
    """Hash of the parts, each behind its length, so that no two lists of parts run together."""
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            digest.update(b"none;")
            continue
        text = " ".join(unicodedata.normalize("NFKC", part).casefold().split())
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(raw) + raw)
    return digest.digest()
