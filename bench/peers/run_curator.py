"""Curator's online generation against an OpenAI-compatible endpoint, everything stored as it does."""

import os

os.environ.setdefault("TELEMETRY_ENABLED", "false")
os.environ.setdefault("CURATOR_DISABLE_RICH_DISPLAY", "1")
os.environ.setdefault("OPENAI_API_KEY", "none")

import litellm.litellm_core_utils.default_encoding  # noqa: F401 - points tiktoken at litellm's copy
from _driver import drive, question
from bespokelabs import curator


class SyncClient(curator.LLM):
    def prompt(self, row):
        return row["question"]

    def parse(self, row, response):
        return {"question": row["question"], "answer": response}


def ask(url, number, in_flight, folder):
    llm = SyncClient(
        model_name="m",
        backend="openai",
        generation_params={"max_tokens": 512},
        backend_params={
            "base_url": url,
            "api_key": "none",
            "max_concurrent_requests": in_flight,
            "max_requests_per_minute": 10**8,  # its own limits are out of the way
            "max_tokens_per_minute": 10**12,
        },
    )
    rows = [{"question": question(n)} for n in range(number)]
    return len(llm(rows, working_dir=str(folder)).dataset)


if __name__ == "__main__":
    drive(ask, "bespokelabs-curator", "aiohttp", "litellm")
