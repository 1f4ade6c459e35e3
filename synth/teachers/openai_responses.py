"""OpenAI's Responses API, for models that have no chat completions.

Nothing is kept at the provider (`store: false`). A response is stored as a chat completion, with
the API's own JSON beside it under `native`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from synth.core.process.environment import env_key
from synth.core.record import Request
from synth.teachers._http.options import HttpConfig
from synth.teachers._http.sampling import NO_SOFT_LABELS, raise_if_refused, refused_parameters
from synth.teachers._http_teacher import HttpTeacher
from synth.teachers._openai.address import sdk_address
from synth.teachers._openai.responses import FinalResponse, completion_of, error_of
from synth.teachers._pricing import warn as warn
from synth.teachers._response import json_object

_NOT_THERE = "the Responses API has none"
_REFUSED = {
    "seed": _NOT_THERE,
    "stop": _NOT_THERE,
    "top_k": _NOT_THERE,
    "top_logprobs": NO_SOFT_LABELS,
    "continue_final_message": _NOT_THERE,
}


class Config(HttpConfig):
    """Where the API is, which model answers, and how it reasons."""

    base_url: str = Field(
        "https://api.openai.com/v1", pattern=r"^https?://", description="Ends in /v1, mostly"
    )
    reasoning_effort: str | None = Field(
        None, description="none, minimal, low, medium, high, ...; the model's own by default"
    )
    reasoning_summary: Literal["auto", "concise", "detailed"] | None = Field(
        "auto",
        description="How its reasoning is summed up, which is all that comes of it; null: not",
    )


def check(config: Config) -> list[str]:
    """Return a message for each environment variable that is named and not set."""
    return config.unset_variables()


def check_sampling(config: Config, sampling: Mapping[str, Any]) -> dict[str, str]:
    """Return why each parameter that the API does not have cannot be sent."""
    return refused_parameters(sampling, _REFUSED)


def build(config: Config, name: str) -> OpenAIResponsesTeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return OpenAIResponsesTeacher(config, env_key(config.api_key_env, f"teacher {name}"))


class OpenAIResponsesTeacher(HttpTeacher):
    """One model behind the Responses API; `key` is the API's, or None."""

    _config: Config

    def __init__(self, config: Config, key: str | None) -> None:
        super().__init__(config, key)
        self.identity: dict[str, Any] = {
            **config.endpoint_identity("openai_responses"),
            "reasoning": self._reasoning(),
        }

    def _address(self) -> tuple[str, Mapping[str, str]]:
        return sdk_address(self._config, self._key, "responses")

    def _reasoning(self) -> dict[str, str]:
        config = self._config
        options = {"effort": config.reasoning_effort, "summary": config.reasoning_summary}
        return {name: value for name, value in options.items() if value is not None}

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = dict(request.sampling)
        raise_if_refused("openai_responses", check_sampling(self._config, sampling))
        if "max_tokens" in sampling:
            sampling["max_output_tokens"] = sampling.pop("max_tokens")
        body: dict[str, Any] = {"model": self._config.model, "input": list(request.messages)}
        if reasoning := self._reasoning():
            body["reasoning"] = reasoning
        return {**body, "store": False, **sampling}

    def _joiner(self) -> FinalResponse:
        return FinalResponse()

    def _error_inside(self, answer: bytes | dict[str, Any]) -> None:
        return None  # `_completion` knows this dialect's own

    def _completion(
        self, answer: bytes | dict[str, Any], request: Request
    ) -> dict[str, Any] | bytes:
        response = json_object(answer)
        if error := error_of(response):
            raise self._errors.error(error.status, {}, error.body)
        return completion_of(response)
