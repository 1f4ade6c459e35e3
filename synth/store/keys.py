"""Keys of requests: the SHA-256 of all that changes the answer (`responses` has the table)."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from synth.core.record import Request, canonical_json


class RequestKey(NamedTuple):
    """A request's key and the canonical JSON that it is the SHA-256 of."""

    key: str
    body: bytes


def request_key(request: Request, identity: dict[str, Any]) -> RequestKey:
    """Return the key of a request to a teacher of some identity."""
    body = canonical_json(
        {
            "messages": request.messages,
            "sampling": request.sampling,
            "teacher": identity,
            "sample": request.sample,
        }
    ).encode("utf-8", "surrogatepass")
    return RequestKey(hashlib.sha256(body).hexdigest(), body)
