"""Studies: an experiment is a sweep and its analysis, in one place."""
