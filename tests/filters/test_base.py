from typing import ClassVar

import pytest

from filters.base import FilterConfig, Measures
from synth.core.errors import UserError


def test_what_a_config_does_not_say_is_by_default():
    config = FilterConfig()
    assert (config.filter_level, config.version, config.needs) == ("trace", 1, ())
    assert (config.measures, config.verifies) == ({}, False)
    assert (config.limit(), config.sub_filters()) == (None, [])


def test_class_variables_are_no_options():
    class Config(FilterConfig):
        filter_level = "set"
        measures: ClassVar[Measures] = {"words": "long"}
        _private: ClassVar[int] = 1

    assert set(Config.model_fields) == {"action", "cannot_tell"}
    assert Config().filter_level == "set" and FilterConfig.filter_level == "trace"


def test_a_misspelt_class_variable_is_an_error():
    with pytest.raises(UserError, match="unknown class variable 'verison'; did you mean 'version'"):

        class Config(FilterConfig):
            verison: ClassVar[int] = 2


def test_a_misspelt_class_variable_without_a_type_is_an_error():
    with pytest.raises(Exception, match="verison"):

        class Config(FilterConfig):
            verison = 2


def test_a_misspelt_method_is_an_error():
    with pytest.raises(UserError, match="unknown method 'sub_filter'; did you mean 'sub_filters'"):

        class Config(FilterConfig):
            def sub_filter(self):
                return []


def test_an_option_has_no_name_of_a_class_variable():
    with pytest.raises(UserError, match="'limit' is no name for an option"):

        class Config(FilterConfig):
            limit: int = 5
