"""Drops traces that were cut off before their end."""

from __future__ import annotations

from pydantic import Field

from filters.contract import KEEP, Check, Context, Decision
from synth.plugins import PluginConfig
from synth.reasoning import is_cut
from synth.record import Record


class Config(PluginConfig):
    """Options of `truncated`."""

    unknown: bool = Field(
        False, description="Also drop a trace whose endpoint did not say why it ended"
    )


def build(config: Config, context: Context) -> Check:
    """The check. It reads the endpoint's finish reason and not the text.

    `length`, `max_tokens` and their kin are dropped in any case of letters. `unknown` (the
    endpoint said nothing) and records that came from outside, which have no finish reason, pass
    unless `unknown` is set: many servers leave the field out of sound responses.
    """

    def check(record: Record) -> Decision:
        reason = (record.generation.finish_reason if record.generation else "unknown").lower()
        if is_cut(reason):
            return Decision(False, f"truncated: finish reason {reason}")
        if config.unknown and reason in {"unknown", "none", ""}:
            return Decision(False, "finish reason unknown")
        return KEEP

    return check
