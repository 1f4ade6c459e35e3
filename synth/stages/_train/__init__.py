"""What the stage `train` does besides the training itself."""
