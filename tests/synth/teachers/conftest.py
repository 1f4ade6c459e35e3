"""Tiny models that the embedded teacher runs."""

import pytest


@pytest.fixture(scope="session")
def llama(tmp_path_factory, smollm2):
    from tests.helpers.embedded_teacher import tiny_llama

    return tiny_llama(tmp_path_factory.mktemp("llama"), smollm2)


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory, smollm2):
    from tests.helpers.embedded_teacher import tiny_gemma3

    return tiny_gemma3(tmp_path_factory.mktemp("gemma3"), smollm2)
