"""Config: the YAML file, with a module for each section."""
