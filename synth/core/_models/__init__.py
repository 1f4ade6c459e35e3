"""What the loading of models is made of: reading GGUF files."""
