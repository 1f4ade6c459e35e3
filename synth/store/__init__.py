"""Response store: every response that was paid for, under the key of its request."""
