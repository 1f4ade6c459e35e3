"""Filters: what decides whether a trace is kept. One file each, a pydantic `Config` and `build`."""
