"""Who the stage `evaluate` asks, and the benchmarks that it runs."""
