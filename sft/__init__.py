"""The student's side: chat templates and masks, training, and the statistics of its evaluation."""
