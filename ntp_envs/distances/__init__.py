"""Distances between rollout laws at every prefix length."""
