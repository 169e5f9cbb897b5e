"""Benchmarks: each reports ratios to a named peer in the same run."""
