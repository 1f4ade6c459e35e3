"""Any OpenAI-compatible API, through the openai SDK: vLLM, SGLang, llama.cpp, or a provider."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from synth.config import env_key
from synth.errors import Unfinished, UserError
from synth.teachers.contract import Refused, Request, Retry, TeacherConfig

if TYPE_CHECKING:
    import openai

# Parameters of chat.completions.create; what else is set travels in the body as it is.
_STANDARD = {"temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed"}


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


def check(config: Config) -> list[str]:
    """Says whether the key's environment variable is not set."""
    if config.api_key_env and not os.environ.get(config.api_key_env):
        return [
            f"the model {config.model} takes its key from the environment variable "
            f"{config.api_key_env}, which is not set"
        ]
    return []


def build(config: Config, name: str) -> _OpenAI:
    """The teacher. Raises UserError where the key's environment variable is not set."""
    return _OpenAI(config, env_key(config.api_key_env, f"teacher {name}"))


class _OpenAI:
    def __init__(self, config: Config, key: str | None) -> None:
        self._config, self._key = config, key
        self.identity: dict[str, Any] = {
            "kind": "openai",
            "base_url": config.base_url.rstrip("/"),
            "model": config.model,
        }
        self._made: openai.AsyncOpenAI | None = None

    @property
    def _client(self) -> openai.AsyncOpenAI:
        if self._made is None:
            import openai

            self._made = openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self._config.base_url,
                timeout=self._config.timeout_s,
                max_retries=0,  # retries are counted, shown and spread by the generation
                http_client=openai.DefaultAioHttpClient(),
            )
        return self._made

    async def complete(self, request: Request) -> dict[str, Any]:
        """Sends one request and returns the API's own JSON."""
        import openai

        sampling = dict(request.sampling)
        if "max_tokens" in sampling:
            sampling[self._config.max_tokens_name] = sampling.pop("max_tokens")
        standard = {k: v for k, v in sampling.items() if k in _STANDARD}
        extra = {k: v for k, v in sampling.items() if k not in _STANDARD}
        try:
            response = await self._client.chat.completions.with_raw_response.create(
                model=self._config.model,
                messages=cast(Any, request.messages),
                extra_body=extra or None,
                **standard,
            )
            raw = response.http_response.json()
        except openai.APIStatusError as error:
            raise self._status(error) from error
        except openai.APIConnectionError as error:
            raise self._unanswered(error) from error
        except ValueError as error:
            raise Retry(f"malformed response: not JSON ({str(error)[:100]})") from error
        if not isinstance(raw, dict):
            raise Retry("malformed response: not a JSON object")
        return raw

    def _unanswered(self, error: openai.APIConnectionError) -> Retry:
        """No answer: none in time, or none at all because nothing could be reached."""
        import openai

        cause = error.__cause__ or error
        # The aiohttp transport calls a refused connection and an unknown host a time-out as well.
        if isinstance(error, openai.APITimeoutError) and "Connect" not in type(cause).__name__:
            return Retry(f"timeout: no answer in {self._config.timeout_s:g} s")
        said = " ".join(str(cause).replace("ssl:default ", "").split())[:200]
        unreachable = "Connect" in type(cause).__name__
        return Retry(f"cannot reach {self._config.base_url}: {said}", unreachable=unreachable)

    def _status(self, error: openai.APIStatusError) -> Exception:
        """What a status means: wait and retry, give this request up, or stop the run."""
        status, model, url = error.status_code, self._config.model, self._config.base_url
        said = " ".join(str(error.message).split())[:300]
        if self._key:  # some servers echo the key in their message
            said = said.replace(self._key, "***")
        if status in (401, 403):
            where = (
                f"from {self._config.api_key_env}" if self._key else "none was given (api_key_env)"
            )
            return UserError(f"{url} does not accept the key ({where}): {status} {said}")
        if status == 404:
            return UserError(f"{url} knows no model {model!r}, or has no such address: 404 {said}")
        if status == 402 or (status == 429 and "quota" in said.lower()):
            return Unfinished(f"{url}: the balance or quota is used up: {status} {said}")
        if status in (408, 409, 425, 429) or status >= 500:
            return Retry(f"status {status}: {said}", _retry_after(error))
        return Refused(f"status {status}: {said}")

    async def close(self) -> None:
        """Closes the connections."""
        if self._made is not None:
            await self._made.close()
            self._made = None


def _retry_after(error: openai.APIStatusError) -> float | None:
    """Seconds of a Retry-After header, at most ten minutes; a date counts as not given."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), 600.0)
