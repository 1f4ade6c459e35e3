"""A bare loop of AsyncOpenAI that stores nothing; the last argument names its transport."""

import asyncio
import sys

import openai
from _driver import drive, question


async def ask_all(url, number, in_flight):
    made = {"aiohttp": openai.DefaultAioHttpClient, "httpx": openai.DefaultAsyncHttpxClient}
    client = openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, http_client=made[sys.argv[5]]()
    )
    left, got = iter(range(number)), 0

    async def work():
        nonlocal got
        for n in left:
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": question(n)}], max_tokens=512
            )
            got += bool(answer.choices[0].message.content)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    await client.close()
    return got


def ask(url, number, in_flight, folder):
    return asyncio.run(ask_all(url, number, in_flight))


if __name__ == "__main__":
    drive(ask, "openai", *(["aiohttp"] if sys.argv[5] == "aiohttp" else ["httpx", "httpx2"]))
