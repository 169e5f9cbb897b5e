"""Charts: labels that do not overlap, and the same bytes every time."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from laws import examples
from scipy.optimize import LinearConstraint, minimize

from experiments.charts import new_figure, render, spread, styled


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(0.5, 30))
@examples(60)
def test_labels_keep_their_order_and_distance(wanted, gap):
    placed = spread(np.array(wanted), gap)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-9).all()
    if len(wanted) > 1:
        steps = np.eye(len(wanted))[1:] - np.eye(len(wanted))[:-1]
        target = np.array(wanted)[order]
        nearest = minimize(
            lambda z: ((z - target) ** 2).sum(),
            placed[order],
            jac=lambda z: 2 * (z - target),
            constraints=LinearConstraint(steps, gap, np.inf),
            method="SLSQP",
        )
        assert ((placed - np.array(wanted)) ** 2).sum() <= nearest.fun + 1e-6 * (1 + nearest.fun)


def test_labels_with_room_stay_where_they_are():
    assert spread(np.array([5.0, 50.0, 20.0]), 10.0).tolist() == [5.0, 50.0, 20.0]


def test_rendering_ignores_the_user_s_settings_and_repeats_itself():
    import matplotlib

    def once():
        with styled():
            figure, axes = new_figure("title", "x", "y")
            axes.plot([1, 2], [3, 4])
            return render(figure)

    first = once()
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None}):
        assert once() == first
    png, svg = first
    assert png.startswith(b"\x89PNG") and b"<svg" in svg and b"dc:date" not in svg


def test_the_command_line_does_not_load_matplotlib_to_list():
    code = "import sys; from experiments.cli import main; main(['list']); print('matplotlib' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False"
