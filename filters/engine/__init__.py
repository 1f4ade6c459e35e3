"""Engine of the filters: it loads them, runs them over records, and keeps their outcomes."""
