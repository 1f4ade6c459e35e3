"""OpenAI's batch API (its files and batches endpoints): mostly half the price, within a day."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from synth.core.process.environment import env_key
from synth.core.record import Request
from synth.teachers import openai
from synth.teachers._batch.client import BatchClient
from synth.teachers._batch_teacher import BatchConfig, BatchTeacher
from synth.teachers._openai.batch_endpoints import ENDPOINT, OpenAIBatches
from synth.teachers._pricing import warn as warn
from synth.teachers.openai import check as check


class Config(BatchConfig, openai.Config):
    """Where the API is, which model answers, and how requests are put together.

    `price` is what a token costs in a batch, mostly half of what it costs online.
    """

    completion_window: str = Field("24h", description="What the provider is asked to keep to")


def build(config: Config, name: str) -> OpenAIBatchTeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return OpenAIBatchTeacher(config, env_key(config.api_key_env, f"teacher {name}"), name)


class OpenAIBatchTeacher(BatchTeacher, openai.OpenAITeacher):
    """One model behind the files and batches endpoints of an OpenAI-compatible API."""

    _config: Config

    def _batches(self) -> BatchClient:
        config = self._config
        headers = {**config.headers, **self._secret_headers}
        return OpenAIBatches(
            self._errors,
            config.timeout_s,
            self._name,
            config.give_up_h,
            config.completion_window,
            headers,
            config.query,
        )

    def _entry(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}

    def _of_batch(self, completion: dict[str, Any], request: Request) -> dict[str, Any] | bytes:
        return self._labelled(completion, request)
