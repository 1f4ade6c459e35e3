"""Options of the teachers behind an HTTP API: address, key, headers, time-outs, streams."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from synth.core.errors import UserError
from synth.teachers.base import TeacherConfig

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CLIENT = {
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect",
    "host", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
# Names of headers and parameters whose values are secrets.
_SECRET_NAME = re.compile(
    r"auth(?!or)|api-?_?key|access-?_?key|subscription-key|secret|password|passwd|credential|cookie"
    r"|token(?!s|iz)|signature|^key$|^sig$|-key$",
    re.IGNORECASE,
)
# Values that are secrets whatever their name: a scheme of authorization, a known kind of key, or a
# long text of letters and digits mixed.
_SECRET_VALUE = re.compile(
    r"\s*(bearer|basic)\s+\S|\b(sk|pk|rk|gsk|xai|hf|ghp|glpat|xox[bp])[-_][\w-]{12,}|\bAIza[\w-]{20,}"
    r"|\beyJ[\w-]{10,}\.|(?=\w*\d)(?=\w*[A-Za-z])\b\w{32,}\b",
    re.IGNORECASE,
)


class HttpConfig(TeacherConfig):
    """Where an API is, which model answers, and how requests are sent."""

    model: str = Field(description="As the API names it")
    base_url: str = Field(pattern=r"^https?://")
    api_key_env: str | None = Field(
        None, description="NAME of the environment variable with the key; null for a server without"
    )
    timeout_s: float = Field(600.0, gt=0, description="Seconds for one whole answer")
    stream: bool = Field(
        False,
        description="Read the answer as it is written; for long answers, and APIs that only stream",
    )
    idle_timeout_s: float | None = Field(
        None, gt=0, description="With stream: most seconds between two pieces of an answer"
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Further headers of each request; no secrets"
    )
    headers_env: dict[str, str] = Field(
        default_factory=dict,
        description="Headers with secrets: the NAME of the environment variable for each",
    )
    query: dict[str, str] = Field(
        default_factory=dict,
        description="Parameters behind ? in the address (Azure's api-version); no secrets",
    )

    @field_validator("headers", "query", mode="before")
    @classmethod
    def _as_text(cls, values: Any) -> Any:
        """Take numbers and dates, which YAML makes of an API's version."""
        if not isinstance(values, dict):
            return values
        plain = (int, float, datetime.date)
        return {
            name: str(value) if isinstance(value, plain) and not isinstance(value, bool) else value
            for name, value in values.items()
        }

    @field_validator("headers", "query")
    @classmethod
    def _no_secrets(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
                raise PydanticCustomError(
                    "secret",
                    "{name} holds what looks like a secret, which would be in the run's files; "
                    "write it as headers_env: {{HEADER: NAME}}, NAME being an environment variable",
                    {"name": name},
                )
        return values

    @field_validator("headers", "headers_env")
    @classmethod
    def _well_formed(cls, values: dict[str, str]) -> dict[str, str]:
        for name, value in values.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if name.lower() in _OF_THE_CLIENT:
                raise ValueError(f"the header {name} is set by the client itself")
            if not value.isprintable():
                raise ValueError(f"the header {name} holds a line break or a control character")
        return values

    @field_validator("headers_env")
    @classmethod
    def _names_of_variables(cls, values: dict[str, str]) -> dict[str, str]:
        for name, variable in values.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) or _SECRET_VALUE.search(
                variable
            ):
                raise PydanticCustomError(
                    "secret",
                    "{name} needs the NAME of an environment variable, not the secret itself",
                    {"name": name},
                )
        return values

    def endpoint_identity(self, kind: str) -> dict[str, Any]:
        """Return what of the address changes an answer: model, address, literal headers and query.

        A secret is no part of it, and neither is how the answer is read.
        """
        identity: dict[str, Any] = {
            "kind": kind, "base_url": self.base_url.rstrip("/"), "model": self.model
        }  # fmt: skip
        if self.headers:
            identity["headers"] = {name.lower(): value for name, value in self.headers.items()}
        if self.query:
            identity["query"] = self.query
        return identity

    def secret_headers(self) -> dict[str, str]:
        """Return the headers of `headers_env`. Raises UserError where a variable is not set."""
        if messages := list(self._unset_headers()):
            raise UserError(messages[0])
        return {name: os.environ[variable].strip() for name, variable in self.headers_env.items()}

    def unset_variables(self) -> list[str]:
        """Return a message for each environment variable that is named and not set, or unfit."""
        messages = list(self._unset_headers())
        if self.api_key_env and not os.environ.get(self.api_key_env):
            messages.append(
                f"the model {self.model} takes its key from the environment variable "
                f"{self.api_key_env}, which is not set"
            )
        return messages

    def _unset_headers(self) -> Iterator[str]:
        for name, variable in self.headers_env.items():
            value = os.environ.get(variable, "").strip()
            if value and value.isprintable() and value.isascii():
                continue
            yield (
                f"the model {self.model} takes its header {name} from the environment variable "
                f"{variable}, which " + ("holds what no header may hold" if value else "is not set")
            )
