"""Base of the sections of a config."""

from synth.core.plugins import PluginConfig


class Section(PluginConfig):
    """A section of the config: an unknown key is an error, not silence."""
