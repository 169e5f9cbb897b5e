"""ChunkKR and its parts: features and points, kernel, coordinates, projection oracle, solvers, certificate, policy."""

from agents.chunk_kr.agent import ChunkKR
from agents.chunk_kr.program import project_onto_ball_and_simplices

__all__ = ["ChunkKR", "project_onto_ball_and_simplices"]
