"""Anthropic's Messages API. Needs `synth-distill[anthropic]`.

The anthropic SDK gives the address and the headers (version and authentication included); the
request itself goes through aiohttp and is tried again by the run, never by the SDK. A message is
stored as a chat completion, with the API's own JSON beside it under `native`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from synth.core.errors import MissingPackage, lacks_package
from synth.core.process.environment import env_key
from synth.core.record import Request
from synth.teachers._anthropic.messages import MessageJoiner, completion_of, error_status
from synth.teachers._http.messages import system_and_turns
from synth.teachers._http.options import HttpConfig
from synth.teachers._http.sampling import NO_SOFT_LABELS, raise_if_refused, refused_parameters
from synth.teachers._http_teacher import HttpTeacher
from synth.teachers._pricing import warn as warn
from synth.teachers._response import json_object

_REFUSED = {
    "seed": "the Messages API has none; without one, samples differ by chance",
    "top_logprobs": NO_SOFT_LABELS,
    "continue_final_message": "a thinking model starts anew",
}


class Config(HttpConfig):
    """Which model answers, and how it thinks."""

    base_url: str = Field(
        "https://api.anthropic.com", pattern=r"^https?://", description="Without /v1"
    )
    api_key_env: str | None = Field(
        "ANTHROPIC_API_KEY", description="NAME of the environment variable with the key"
    )
    thinking: Literal["adaptive", "disabled"] | None = Field(
        None,
        description="adaptive: the model decides how much it thinks; its own default if not set",
    )
    thinking_budget: int | None = Field(
        None, ge=1024, description="Most tokens of thinking, for models that take a budget"
    )
    thinking_display: Literal["summarized", "omitted"] | None = Field(
        "summarized", description="Whether thinking comes as text; null: by the model's default"
    )
    effort: str | None = Field(None, description="low, medium, high, xhigh or max")

    @model_validator(mode="after")
    def _one_way_to_think(self) -> Config:
        if self.thinking is not None and self.thinking_budget is not None:
            raise ValueError("thinking and thinking_budget are two ways: set one of them")
        return self


def check(config: Config) -> list[str]:
    """Return a message for the package and each environment variable that is missing."""
    return [*lacks_package("anthropic", "kind: anthropic", "anthropic"), *config.unset_variables()]


def check_sampling(config: Config, sampling: Mapping[str, Any]) -> dict[str, str]:
    """Return why each parameter that the API does not have cannot be sent."""
    problems = refused_parameters(sampling, _REFUSED)
    temperature, limit = sampling.get("temperature"), sampling.get("max_tokens")
    if isinstance(temperature, int | float) and temperature > 1:
        problems["temperature"] = "the Messages API takes 0 to 1"
    if config.thinking_budget is not None:
        if temperature not in (None, 1):
            problems["temperature"] = "with thinking_budget it is 1"
        if "top_k" in sampling:
            problems["top_k"] = "not with thinking_budget"
        if isinstance(limit, int) and limit <= config.thinking_budget:
            problems["max_tokens"] = (
                f"it has to be more than thinking_budget ({config.thinking_budget}), which is "
                "part of it"
            )
    return problems


def build(config: Config, name: str) -> AnthropicTeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return AnthropicTeacher(config, env_key(config.api_key_env, f"teacher {name}"))


class AnthropicTeacher(HttpTeacher):
    """One model behind the Messages API; `key` is the API's, or None."""

    _config: Config

    def __init__(self, config: Config, key: str | None) -> None:
        super().__init__(config, key)
        self.identity: dict[str, Any] = {
            **config.endpoint_identity("anthropic"),
            **self._thinking(),
        }

    def _address(self) -> tuple[str, Mapping[str, str]]:
        try:
            import anthropic
        except ImportError as error:
            raise MissingPackage("anthropic", "kind: anthropic", "anthropic") from error
        # Only for what it knows of the API: nothing is sent through it.
        client = anthropic.AsyncAnthropic(
            api_key=self._key or "none", base_url=self._config.base_url, max_retries=0
        )
        headers = {**client.default_headers, **client.auth_headers}
        if self._key is None:
            headers = {n: v for n, v in headers.items() if n not in client.auth_headers}
        texts = {name: value for name, value in headers.items() if isinstance(value, str)}
        return f"{str(client.base_url).rstrip('/')}/v1/messages", texts

    def _thinking(self) -> dict[str, Any]:
        config, options = self._config, dict[str, Any]()
        if config.thinking_budget is not None:
            options["thinking"] = {"type": "enabled", "budget_tokens": config.thinking_budget}
        elif config.thinking is not None:
            options["thinking"] = {"type": config.thinking}
        if config.thinking_display and options.get("thinking", {}).get("type") in (
            "enabled",
            "adaptive",
        ):
            options["thinking"]["display"] = config.thinking_display
        if config.effort is not None:
            options["output_config"] = {"effort": config.effort}
        return options

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = dict(request.sampling)
        raise_if_refused("anthropic", check_sampling(self._config, sampling))
        if "stop" in sampling:
            sampling["stop_sequences"] = sampling.pop("stop")
        system, turns = system_and_turns(request.messages, "anthropic")
        messages = [
            {
                "role": role,
                "content": texts[0]
                if len(texts) == 1
                else [{"type": "text", "text": text} for text in texts],
            }
            for role, texts in turns
        ]
        body = {"model": self._config.model, "messages": messages, **self._thinking(), **sampling}
        return {**body, "system": system} if system else body

    def _joiner(self) -> MessageJoiner:
        return MessageJoiner()

    def _error_inside(self, answer: bytes | dict[str, Any]) -> None:
        return None  # `_completion` knows this dialect's own

    def _completion(
        self, answer: bytes | dict[str, Any], request: Request
    ) -> dict[str, Any] | bytes:
        message = json_object(answer)
        if message.get("type") == "error" or "error" in message:
            status, body = error_status(message.get("error"))
            raise self._errors.error(status, {}, body)
        return completion_of(message)
