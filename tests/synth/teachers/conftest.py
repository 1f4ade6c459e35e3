"""Tiny models that the embedded teacher runs, and generations that tests kill."""

import pytest

from tests.helpers.processes import generation, kill


@pytest.fixture(scope="session")
def llama(tmp_path_factory, smollm2):
    from tests.helpers.embedded_teacher import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("llama"), smollm2)


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory, smollm2):
    from tests.helpers.embedded_teacher import tiny_gemma3

    return tiny_gemma3(tmp_path_factory.mktemp("gemma3"), smollm2)


@pytest.fixture
def start(tmp_path):
    """Begins a generation in a process of its own; none outlives its test."""
    begun = []

    def begin(config):
        begun.append(generation(tmp_path, config))
        return begun[-1]

    yield begin
    for process in begun:
        kill(process)
