"""Teachers: one file each, a pydantic `Config` and a factory `build` giving an async `complete`."""
