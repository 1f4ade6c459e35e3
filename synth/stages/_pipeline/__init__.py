"""What the pipeline says of a stage that is done again."""
