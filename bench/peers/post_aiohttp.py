"""The ceiling: plain posting with aiohttp; answers are read and dropped."""

import asyncio
import json

import aiohttp
from _driver import drive, question


async def ask_all(url, number, in_flight):
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:
        left, got = iter(range(number)), 0

        async def work():
            nonlocal got
            for n in left:
                body = json.dumps(
                    {
                        "model": "m",
                        "messages": [{"role": "user", "content": question(n)}],
                        "max_tokens": 512,
                    }
                )
                headers = {"Content-Type": "application/json"}
                async with session.post(
                    f"{url}/chat/completions", data=body, headers=headers
                ) as answer:
                    got += bool(await answer.read())

        await asyncio.gather(*(work() for _ in range(in_flight)))
    return got


def ask(url, number, in_flight, folder):
    return asyncio.run(ask_all(url, number, in_flight))


if __name__ == "__main__":
    drive(ask, "aiohttp")
