"""Any OpenAI-compatible API, through the openai SDK: vLLM, SGLang, llama.cpp, or a provider.

The SDK gives the address and the headers (authentication included); the request itself goes
straight through aiohttp, on which the SDK's own transport stands as well. Building the SDK's
request and response objects costs several times what the request does (bench/api.py).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from synth.core.environment import env_key
from synth.core.record import Request
from synth.teachers._openai.status import StatusErrors, advertised
from synth.teachers._openai.token_ids import ids_by_bytes
from synth.teachers._response import malformed, with_labels
from synth.teachers.base import RetryableError, Teacher, TeacherConfig

if TYPE_CHECKING:
    import aiohttp

# 32,768 tokens with the log-probabilities of twenty at each take a sixth of that.
LARGEST_ANSWER = 256 * 1024 * 1024


class Config(TeacherConfig):
    """Where the API is and which model answers."""

    model: str = Field(description="As the API names it")
    base_url: str = Field(
        "https://api.openai.com/v1", pattern=r"^https?://", description="Ends in /v1, mostly"
    )
    api_key_env: str | None = Field(
        None, description="NAME of the environment variable with the key; null for a server without"
    )
    timeout_s: float = Field(600.0, gt=0, description="Seconds for one whole answer")
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
    """Return a message where the key's environment variable is not set."""
    if config.api_key_env and not os.environ.get(config.api_key_env):
        return [
            f"the model {config.model} takes its key from the environment variable "
            f"{config.api_key_env}, which is not set"
        ]
    return []


def build(config: Config, name: str) -> OpenAITeacher:
    """Build the teacher. Raises UserError where the key's environment variable is not set."""
    return OpenAITeacher(config, env_key(config.api_key_env, f"teacher {name}"))


class OpenAITeacher(Teacher):
    """One model behind an OpenAI-compatible API; `key` is the API's, or None."""

    def __init__(self, config: Config, key: str | None) -> None:
        self._config, self._key = config, key
        self._errors = StatusErrors(config.base_url, config.model, key, config.api_key_env)
        url = config.base_url.rstrip("/")
        self.identity: dict[str, Any] = {"kind": "openai", "base_url": url, "model": config.model}
        self._session: aiohttp.ClientSession | None = None
        self._url = ""
        self._tokenizer = None if config.token_ids in (None, "vllm") else config.token_ids
        self._id_of: Any = None

    async def complete(self, request: Request) -> dict[str, Any] | bytes:
        """Send one request and return the bytes of the API's JSON."""
        import aiohttp

        if self._session is None:
            self._session = self._open()
        body = json.dumps(self._body(request)).encode()
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                answer = await _read(response)
        except TimeoutError as error:
            raise RetryableError(f"timeout: no answer in {self._config.timeout_s:g} s") from error
        except aiohttp.ClientConnectorError as error:
            cause = " ".join(str(error).replace("ssl:default ", "").split())[:200]
            reason = f"cannot reach {self._config.base_url}: {cause}"
            raise RetryableError(reason, unreachable=True) from error
        except (aiohttp.ClientError, OSError) as error:
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            raise RetryableError(f"connection cut: {cause}") from error
        if any(name.lower().startswith("x-ratelimit-") for name in response.headers):
            self.advertised = advertised(response.headers)
        if response.status != 200:
            raise self._errors.error(response.status, response.headers, answer)
        return self._labelled(answer, request)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        import ssl

        import aiohttp
        import certifi
        import openai

        # Only for what it knows of the API: nothing is sent through it.
        client = openai.AsyncOpenAI(api_key=self._key or "none", base_url=self._config.base_url)
        sdk_headers = {**client.default_headers, **client.auth_headers}
        headers = {name: value for name, value in sdk_headers.items() if isinstance(value, str)}
        self._url = f"{str(client.base_url).rstrip('/')}/chat/completions"
        verify = ssl.create_default_context(
            cafile=None if os.environ.get("SSL_CERT_FILE") else certifi.where()
        )
        return aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._config.timeout_s),
            # The lanes bound what is in flight; a pool of a hundred would do it a second time.
            connector=aiohttp.TCPConnector(limit=0, ssl=verify, keepalive_timeout=60),
            # Looked up anew for each request, so only where there is a proxy to be found.
            trust_env=any(name.lower().endswith("_proxy") for name in os.environ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

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

    def _labelled(self, answer: dict[str, Any] | bytes, request: Request) -> dict[str, Any] | bytes:
        """Return an answer, with soft labels where the tokenizer gives their ids."""
        if self._tokenizer is None or not request.sampling.get("top_logprobs"):
            return answer
        self._id_of = self._id_of or ids_by_bytes(self._tokenizer)
        return with_labels(answer, self._id_of)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read the whole body; one that does not end is not read to the end of memory."""
    length = response.content_length
    if length is not None and length <= LARGEST_ANSWER:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > LARGEST_ANSWER:
            raise malformed(f"more than {LARGEST_ANSWER >> 20} MiB")
    return b"".join(parts)
