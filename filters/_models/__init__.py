"""Models that filters run: sequence classifiers and sentence embeddings."""
