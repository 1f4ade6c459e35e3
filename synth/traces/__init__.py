"""Trace sources: one file each, a `Config(TraceConfig)` and a factory `build` giving rows."""
