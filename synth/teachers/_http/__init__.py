"""What the teachers behind an HTTP API share: options, the client, and streams of events."""
