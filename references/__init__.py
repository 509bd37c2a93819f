"""Exact answers, by other means than ours: what tests and benchmarks hold numbers against."""
