"""Response store: every response that was paid for, under the key of its request."""

from synth.store.keys import RequestKey, request_key
from synth.store.responses import ResponseStore, StoreFull

__all__ = ["RequestKey", "ResponseStore", "StoreFull", "request_key"]
