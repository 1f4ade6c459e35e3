"""What the openai SDK knows of an OpenAI-compatible API: its address and its headers."""

from __future__ import annotations

from synth.teachers._http.options import HttpConfig


def sdk_address(config: HttpConfig, key: str | None, path: str) -> tuple[str, dict[str, str]]:
    """Return an address of an OpenAI-compatible API and its headers, as the openai SDK has them."""
    import openai

    # Only for what it knows of the API: nothing is sent through it.
    client = openai.AsyncOpenAI(api_key=key or "none", base_url=config.base_url)
    sdk_headers = {**client.default_headers, **client.auth_headers}
    if key is None and config.headers_env:  # the key is in a header of its own
        sdk_headers.pop("Authorization", None)
    headers = {name: value for name, value in sdk_headers.items() if isinstance(value, str)}
    return f"{str(client.base_url).rstrip('/')}/{path}", headers
