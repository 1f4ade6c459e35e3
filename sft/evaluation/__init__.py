"""What a student scores: lm-eval benchmarks, shares of right answers, and statistics."""
