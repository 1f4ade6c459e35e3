"""Anthropic's Message Batches: half the price, within a day. Needs `synth-distill[anthropic]`."""

from __future__ import annotations

from typing import Any

from synth.core.process.environment import env_key
from synth.teachers import anthropic
from synth.teachers._anthropic.batches import AnthropicBatches
from synth.teachers._batch.client import BatchClient
from synth.teachers._batch_teacher import BatchConfig, BatchTeacher
from synth.teachers._pricing import warn as warn
from synth.teachers.anthropic import check as check
from synth.teachers.anthropic import check_sampling as check_sampling


class Config(BatchConfig, anthropic.Config):
    """Which model answers, how it thinks, and how requests are put together.

    `price` is what a token costs in a batch, mostly half of what it costs online.
    """


def build(config: Config, name: str) -> AnthropicBatchTeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return AnthropicBatchTeacher(config, env_key(config.api_key_env, f"teacher {name}"), name)


class AnthropicBatchTeacher(BatchTeacher, anthropic.AnthropicTeacher):
    """One model behind Anthropic's batches."""

    _config: Config

    def _batches(self) -> BatchClient:
        config = self._config
        return AnthropicBatches(
            self._errors,
            self._name,
            config.give_up_h,
            self._http,
            url=lambda: self._url,
            poll_s=config.poll_s,
        )

    def _entry(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": key, "params": body}
