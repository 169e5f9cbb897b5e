"""Random path-star tasks and their prompts, read by hand, for the tests of the family and of its learner."""

import numpy as np
from hypothesis import strategies as st
from laws import examples

from ntp_envs.tasks import PathStar

QUICK = examples(30)


@st.composite
def stars(draw):
    """Any small task, with ten of its prompts."""
    degree, length = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    task = PathStar(
        degree,
        length,
        1 + degree * (length - 1) + draw(st.integers(0 if degree * length > 2 else 1, 6)),
        reverse=draw(st.booleans()),
        hops=draw(st.integers(0, length - 2)),
        teacherless=draw(st.booleans()),
    )
    return task, task.sample_prompts(10, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))


def read_edges(task, prompt):
    """Edges, start and goal of one prompt, read by its symbols as a person would."""
    listing, question = task.decode(prompt).split(" / ")
    edges = [tuple(map(int, edge.split())) for edge in listing.split(" | ")]
    start, goal, equals = question.split()
    assert equals == "="
    return edges, int(start), int(goal)


def found_by_search(edges, start, goal):
    """The path from start to goal, by depth-first search from the start."""
    children = {}
    for u, v in edges:
        children.setdefault(u, []).append(v)
    paths = [[start]]
    while paths:
        path = paths.pop()
        if path[-1] == goal:
            return path
        paths += [[*path, v] for v in children.get(path[-1], [])]
    raise AssertionError("no path")
