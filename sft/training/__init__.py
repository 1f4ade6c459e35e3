"""Training of a student: runs, trainers, batches, processes, checkpoints and export."""
