"""Task sources: one file each, a `Config(SourceConfig)` and a factory `build` giving rows."""
