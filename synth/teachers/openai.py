"""Any OpenAI-compatible API, through the openai SDK: vLLM, SGLang, llama.cpp, or a provider.

The SDK gives the address and the headers (authentication included); the request itself goes
straight through aiohttp, on which the SDK's own transport stands as well. Building the SDK's
request and response objects costs several times what the request does (bench/api.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from synth.core.errors import UserError
from synth.core.process.environment import env_key
from synth.core.record import Request
from synth.teachers._http.options import HttpConfig
from synth.teachers._http_teacher import HttpTeacher
from synth.teachers._openai.address import sdk_address
from synth.teachers._openai.stream import ChunkJoiner
from synth.teachers._openai.token_ids import ids_by_bytes
from synth.teachers._pricing import warn as warn
from synth.teachers._response import with_labels
from synth.teachers.base import RequestRejected


class Config(HttpConfig):
    """Where the API is and which model answers."""

    base_url: str = Field(
        "https://api.openai.com/v1", pattern=r"^https?://", description="Ends in /v1, mostly"
    )
    stream_usage: bool = Field(
        True, description="With stream: ask for the usage; false where the API refuses that"
    )
    max_tokens_name: str = Field(
        "max_tokens",
        pattern="^max_(completion_)?tokens$",
        description="max_completion_tokens for OpenAI's reasoning models",
    )
    token_ids: Literal["vllm"] | str | None = Field(
        None,
        description="For soft labels: vllm (the server writes token ids), or the hub id or folder "
        "of the teacher's tokenizer, by which tokens get their ids",
    )
    continue_with: Literal["vllm", "prefix"] = Field(
        "vllm",
        description="How the API lets an answer be continued: vLLM's continue_final_message, or "
        "prefix: true on the last message (DeepSeek, Mistral)",
    )


def check(config: Config) -> list[str]:
    """Return a message for each environment variable that is named and not set."""
    return config.unset_variables()


def build(config: Config, name: str) -> OpenAITeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return OpenAITeacher(config, env_key(config.api_key_env, f"teacher {name}"))


class OpenAITeacher(HttpTeacher):
    """One model behind an OpenAI-compatible API; `key` is the API's, or None."""

    _config: Config

    def __init__(self, config: Config, key: str | None) -> None:
        super().__init__(config, key)
        self.identity: dict[str, Any] = config.endpoint_identity("openai")
        self._tokenizer = None if config.token_ids in (None, "vllm") else config.token_ids
        self._id_of: Any = None

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Send one request and return the API's JSON, as bytes, or joined where it streams."""
        try:
            return await super().complete(request)
        except RequestRejected as rejection:
            if self._config.stream and "stream_options" in str(rejection):
                raise UserError(
                    f"{self._config.base_url} streams without usage: {rejection}; set "
                    "stream_usage: false on the teacher (tokens are then estimated)"
                ) from rejection
            raise

    def _address(self) -> tuple[str, Mapping[str, str]]:
        return sdk_address(self._config, self._key, "chat/completions")

    def _joiner(self) -> ChunkJoiner:
        return ChunkJoiner()

    def _body(self, request: Request) -> dict[str, Any]:
        config, sampling = self._config, dict(request.sampling)
        messages: list[Any] = list(request.messages)
        if "max_tokens" in sampling:
            sampling[config.max_tokens_name] = sampling.pop("max_tokens")
        if sampling.get("top_logprobs") and self._tokenizer is None:
            sampling["return_tokens_as_token_ids"] = True
        if sampling.get("continue_final_message") and config.continue_with == "prefix":
            del sampling["continue_final_message"], sampling["add_generation_prompt"]
            messages[-1] = {**messages[-1], "prefix": True}
        return {"model": config.model, "messages": messages, **sampling}

    def _streamed(self, body: dict[str, Any]) -> dict[str, Any]:
        usage = {"stream_options": {"include_usage": True}} if self._config.stream_usage else {}
        return {**usage, **super()._streamed(body)}

    def _completion(
        self, answer: bytes | dict[str, Any], request: Request
    ) -> dict[str, Any] | bytes:
        return self._labelled(answer, request)

    def _labelled(self, answer: dict[str, Any] | bytes, request: Request) -> dict[str, Any] | bytes:
        """Return an answer, with soft labels where the tokenizer gives their ids."""
        if self._tokenizer is None or not request.sampling.get("top_logprobs"):
            return answer
        self._id_of = self._id_of or ids_by_bytes(self._tokenizer)
        return with_labels(answer, self._id_of)
