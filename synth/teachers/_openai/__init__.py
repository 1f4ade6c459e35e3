"""What the teachers over OpenAI's API share: rate limits, token ids, batch endpoints."""
