"""Gemini's batches: half the price, within a day. Needs `synth-distill[gemini]`."""

from __future__ import annotations

from typing import Any

from synth.core.process.environment import env_key
from synth.teachers import gemini
from synth.teachers._batch.client import BatchClient
from synth.teachers._batch_teacher import BatchConfig, BatchTeacher
from synth.teachers._gemini.batches import GeminiBatches
from synth.teachers._pricing import warn as warn
from synth.teachers.gemini import check as check
from synth.teachers.gemini import check_sampling as check_sampling


class Config(BatchConfig, gemini.Config):
    """Which model answers, how it thinks, and how requests are put together.

    `price` is what a token costs in a batch, mostly half of what it costs online.
    """


def build(config: Config, name: str) -> GeminiBatchTeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return GeminiBatchTeacher(config, env_key(config.api_key_env, f"teacher {name}"), name)


class GeminiBatchTeacher(BatchTeacher, gemini.GeminiTeacher):
    """One model behind Gemini's batches."""

    _config: Config

    def _batches(self) -> BatchClient:
        config = self._config
        return GeminiBatches(
            self._errors,
            self._name,
            config.give_up_h,
            self._http,
            root=lambda: self._root[0],
            model=self._model(),
        )

    def _entry(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"key": key, "request": body}
