"""Turn a big model's reasoning into a better small model, from one config file."""

__version__ = "0.1.0"
