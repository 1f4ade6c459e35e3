"""Google's Gemini API. Needs `synth-distill[gemini]`.

The google-genai SDK gives the address, the version and the headers; the request itself goes through
aiohttp and is tried again by the run, never by the SDK. A response is stored as a chat completion,
with the API's own JSON beside it under `native`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from synth.core.errors import MissingPackage
from synth.core.process.environment import env_key
from synth.core.record import Request
from synth.teachers._gemini.content import ResponseJoiner, completion_of
from synth.teachers._http.messages import system_and_turns
from synth.teachers._http.options import HttpConfig
from synth.teachers._http.sampling import NO_SOFT_LABELS, raise_if_refused, refused_parameters
from synth.teachers._http_teacher import HttpTeacher
from synth.teachers._pricing import warn as warn
from synth.teachers._response import json_object, malformed

_REFUSED = {
    "top_logprobs": NO_SOFT_LABELS,
    "continue_final_message": "Gemini starts a turn of its own",
}
# OpenAI's names of the sampling, and where Gemini has them.
_NAMES = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
_CONFIG = "generationConfig"


class Config(HttpConfig):
    """Which model answers, and how it thinks."""

    base_url: str = Field(
        "https://generativelanguage.googleapis.com",
        pattern=r"^https?://",
        description="Without a version",
    )
    api_key_env: str | None = Field(
        "GEMINI_API_KEY", description="NAME of the environment variable with the key"
    )
    api_version: str | None = Field(
        None, pattern=r"^v[0-9a-z]+$", description="v1, v1beta; that of the SDK by default"
    )
    include_thoughts: bool = Field(
        True, description="Ask for its thoughts; false for models that do not think"
    )
    thinking_budget: int | None = Field(
        None, ge=-1, description="Most tokens of thinking; 0: none, -1: the model decides"
    )
    thinking_level: Literal["minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="How much it thinks, for models that take a level"
    )

    @model_validator(mode="after")
    def _one_way_to_think(self) -> Config:
        if self.thinking_level is not None and self.thinking_budget is not None:
            raise ValueError("thinking_level and thinking_budget are two ways: set one of them")
        return self


def check(config: Config) -> list[str]:
    """Return a message for the package and each environment variable that is missing."""
    return [*_lacks_sdk(), *config.unset_variables()]


def _lacks_sdk() -> list[str]:
    import importlib.util

    try:
        installed = importlib.util.find_spec("google.genai") is not None
    except ModuleNotFoundError:  # nothing of Google's is installed
        installed = False
    return [] if installed else [str(MissingPackage("google-genai", "kind: gemini", "gemini"))]


def check_sampling(config: Config, sampling: Mapping[str, Any]) -> dict[str, str]:
    """Return why each parameter that the API does not have cannot be sent."""
    problems = refused_parameters(sampling, _REFUSED)
    temperature = sampling.get("temperature")
    if isinstance(temperature, int | float) and temperature > 2:
        problems["temperature"] = "Gemini takes 0 to 2"
    return problems


def build(config: Config, name: str) -> GeminiTeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return GeminiTeacher(config, env_key(config.api_key_env, f"teacher {name}"))


class GeminiTeacher(HttpTeacher):
    """One model behind the Gemini API; `key` is the API's, or None."""

    _config: Config

    def __init__(self, config: Config, key: str | None) -> None:
        super().__init__(config, key)
        self.identity: dict[str, Any] = {
            **config.endpoint_identity("gemini"),
            "thinking": self._thinking(),
        }

    def _address(self) -> tuple[str, Mapping[str, str]]:
        root, headers = self._root
        method = "streamGenerateContent?alt=sse" if self._config.stream else "generateContent"
        return f"{root}/{self._model()}:{method}", headers

    def _model(self) -> str:
        """Return the model as the API's addresses name it."""
        model = self._config.model
        return model if "/" in model else f"models/{model}"

    @functools.cached_property
    def _root(self) -> tuple[str, dict[str, str]]:
        """Return address and version of the API, and its headers."""
        try:
            from google import genai
        except ImportError as error:
            raise MissingPackage("google-genai", "kind: gemini", "gemini") from error
        # Only for what it knows of the API: nothing is sent through it.
        options = {"base_url": self._config.base_url, "api_version": self._config.api_version}
        client = genai.Client(
            vertexai=False,
            api_key=self._key or "none",
            http_options={name: value for name, value in options.items() if value is not None},
        )
        known = client._api_client.get_read_only_http_options()
        headers = {name: value for name, value in known["headers"].items()}
        if self._key is None:
            headers.pop("x-goog-api-key", None)
        return f"{str(known['base_url']).rstrip('/')}/{known['api_version']}", headers

    def _thinking(self) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {"includeThoughts": True} if config.include_thoughts else {}
        if config.thinking_budget is not None:
            options["thinkingBudget"] = config.thinking_budget
            if config.thinking_budget == 0:
                options.pop("includeThoughts", None)
        if config.thinking_level is not None:
            options["thinkingLevel"] = config.thinking_level.upper()
        return options

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = dict(request.sampling)
        raise_if_refused("gemini", check_sampling(self._config, sampling))
        options = {_NAMES[name]: sampling.pop(name) for name in list(sampling) if name in _NAMES}
        if thinking := self._thinking():
            options["thinkingConfig"] = thinking
        options |= sampling.pop(_CONFIG, None) or {}
        system, turns = system_and_turns(request.messages, "gemini")
        contents = [
            {
                "role": "model" if role == "assistant" else role,
                "parts": [{"text": text} for text in texts],
            }
            for role, texts in turns
        ]
        body = {"contents": contents, _CONFIG: options, **sampling}
        return {**body, "systemInstruction": {"parts": [{"text": system}]}} if system else body

    def _streamed(self, body: dict[str, Any]) -> dict[str, Any]:
        return body  # the address says it

    def _joiner(self) -> ResponseJoiner:
        return ResponseJoiner()

    def _error_inside(self, answer: bytes | dict[str, Any]) -> None:
        return None  # `_completion` knows this dialect's own

    def _completion(
        self, answer: bytes | dict[str, Any], request: Request
    ) -> dict[str, Any] | bytes:
        return self._read(json_object(answer))

    def _read(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return the chat completion of a response. Raises what an error inside it stands for."""
        if "error" in response:
            raise self._error_in(response)
        return completion_of(response)

    def _error_in(self, response: dict[str, Any]) -> Exception:
        error = response["error"]
        code = error.get("code") if isinstance(error, dict) else None
        if not isinstance(code, int) or not 400 <= code < 600:
            return malformed(f"an error without a status: {str(error)[:200]}")
        return self._errors.error(code, {}, json.dumps(response).encode())
