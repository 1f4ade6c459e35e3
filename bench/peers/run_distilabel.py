"""distilabel's pipeline with its OpenAI LLM: one step, as many rows a batch as may be in flight."""

import logging

from _driver import drive, question
from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

# It silences the log of httpx, a line a request, and does not know the SDK's newer httpx2.
logging.getLogger("httpx2").setLevel(logging.WARNING)


def ask(url, number, in_flight, folder):
    rows = [{"instruction": question(n)} for n in range(number)]
    with Pipeline(name="bench", cache_dir=str(folder)) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=in_flight)
        llm = OpenAILLM(
            model="m",
            base_url=url,
            api_key="none",
            generation_kwargs={"max_new_tokens": 512},
        )
        load >> TextGeneration(llm=llm, input_batch_size=in_flight)
    made = pipeline.run(use_cache=False)
    return sum(row["generation"] is not None for row in made["default"]["train"])


if __name__ == "__main__":
    drive(ask, "distilabel", "openai")
