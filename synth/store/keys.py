"""Placeholder."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from synth.core.record import Request, canonical_json


class RequestKey(NamedTuple):
    """A request's key and the canonical JSON that it is the SHA-256 of."""

    key: str
    body: bytes


def keyed(request: Request, identity: dict[str, Any]) -> RequestKey:
    """The key of a request: see the table at the head of this module."""
    body = canonical_json(
        {
            "messages": request.messages,
            "sampling": request.sampling,
            "teacher": identity,
            "sample": request.sample,
        }
    ).encode("utf-8", "surrogatepass")
    return RequestKey(hashlib.sha256(body).hexdigest(), body)


def request_key(request: Request, identity: dict[str, Any]) -> str:
    """The key alone."""
    return keyed(request, identity).key
