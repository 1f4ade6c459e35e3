"""What the readers of rows are made of: text, JSON, CSV, Parquet, and the cells of a row."""
