"""The classroom: sheets done as a student would, the check of answers, notebooks that are made, and plots."""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import charts, classroom
from experiments.classroom import QUESTIONS, check, judge
from experiments.cli import parse_run
from experiments.studies import load_study
from ntp_envs import (
    CallablePolicy,
    DistanceCurve,
    UniformPolicy,
    compare_curves,
    distance,
    evaluate,
    make_task,
)
from ntp_envs.distances.curve import additive_distance

ROOT = Path(__file__).parent.parent
HERE = ROOT / "docs" / "classroom"
SHEETS = sorted(HERE.glob("[0-9]*.py"))

# -- the sheets and the pages about them -------------------------------------------------------------------------------


def test_the_start_page_says_what_the_sheets_say():
    page = (HERE / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(.*?)\]\((.*?)\) \| (\d+) \| (.*?) \|$", page, flags=re.M)
    head_of = re.compile(r"# (.*?) \*\*Goal\.\*\* (.*?) \*\*Minutes\.\*\* (\d+)\. \*\*Needs\.\*\* \S")
    said = []
    for sheet in SHEETS:
        lines = sheet.read_text("utf-8").split("\n# %%")[0].splitlines()[1:]
        title, goal, minutes = head_of.match(" ".join(line[2:] for line in lines if line != "#")).groups()
        said.append((title, sheet.name, minutes, goal))
    assert len(rows) == 10 and rows == said
    assert [int(title.split(".")[0]) for title, *_ in rows] == list(range(1, 11))


def test_every_question_is_asked_once_in_its_sheet_and_has_a_gap():
    asked = []
    for number, sheet in enumerate(SHEETS, start=1):
        for there, part in re.findall(r'^check\((\d+), \w+(?:, part="(\w)")?\)$', sheet.read_text("utf-8"), flags=re.M):
            assert int(there) == number
            asked.append((number, part or "a"))
        cells = sheet.read_text("utf-8").split("\n# %%")
        assert all("  # gap" in cell for cell in cells if re.search(r"^check\(", cell, flags=re.M))
    assert asked == sorted(QUESTIONS)


def test_commands_for_windows_say_what_those_for_unix_say():
    page = (HERE / "README.md").read_text("utf-8")
    unix, windows = (re.findall(rf"```{kind}\n(.*?)```", page, flags=re.S) for kind in ("bash", "bat"))
    assert len(unix) == len(windows) == 2
    for one, other in zip(unix, windows):
        paths = re.sub(r"docs\S+", lambda found: found.group().replace("/", "\\"), one)
        assert paths.replace("python3 ", "py ").replace(".venv/bin/", ".venv\\Scripts\\") == other


def test_the_lecture_is_two_hours_and_its_commands_and_figures_are_there():
    page = (HERE / "lecture.md").read_text("utf-8")
    starts = [int(minute) for minute in re.findall(r"^\| (\d+) \|", page, flags=re.M)]
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] < 120
    studies = {}
    for name, words in re.findall(r"^ntp-bench run (\w+) (.*)$", page, flags=re.M):
        studies[name] = load_study(name)
        settings, _ = parse_run(studies[name], words.split())
        assert settings.quick and settings.slides
    for name, figure in re.findall(r"`runs/(\w+)-quick/([\w-]+)\.png`", page):
        assert f'"{figure}",' in (ROOT / "experiments" / "studies" / f"{name}.py").read_text("utf-8")
        assert name in studies


def test_slides_are_the_same_picture_on_a_smaller_canvas():
    def size():
        with charts.styled():
            return charts.new_figure("title", "x", "y")[0].get_size_inches()

    paper = size()
    with charts.for_slides():
        assert np.allclose(paper / size(), (1.4, 1.1))
    assert np.allclose(size(), paper)


# -- a student's answers -----------------------------------------------------------------------------------------------


def forced(d, L):
    return [1, 1 / d] + (L - 2) * [1]


def costs(policy, texts):
    return -policy.log_probs(texts.prompts, texts.tokens).mean() / math.log(2)


def errs_on(policy, task):
    prompts = task.prompt_law()[0]
    zeros = np.zeros((len(prompts), task.horizon), dtype=int)
    return sum(float(row.sum()) < -1 for row in policy.log_probs(prompts, zeros))


def end_of_log_loss():
    """With n so large that a sample's error is below the tolerance, and another route than the check's."""
    task = make_task("Contamination", horizon=16, eps=0.05)
    theta = 1e-5 * 0.95 + (1 - 1e-5) * 0.05
    return distance(task.expert, task.policy_class.policy(theta), task).final


#: by question: an answer worked out on paper, and some that one might give instead
ANSWERS = {
    (1, "a"): (lambda eps, p, q: (1 - eps) * p + eps * q, [lambda eps, p, q: p, lambda eps, p, q: eps * (q - p)]),
    (1, "b"): (
        lambda H, eps, p, q: 1 + H * (math.sqrt(p + eps * (q - p)) - math.sqrt(p)) ** 2 / eps,
        [lambda H, eps, p, q: H, lambda H, eps, p, q: H * q, lambda H, eps, p, q: 1 / eps, lambda H, eps, p, q: 1],
    ),
    (2, "a"): (end_of_log_loss, [0.05, 0.0, 2.0, 0.35]),
    (2, "b"): (-1.0, [-0.5, 1.0, 0.0, -2.0]),
    (2, "c"): (lambda eps: math.log(2) / eps, [lambda eps: 1 / eps, lambda eps: 1 / (2 * eps), lambda eps: eps]),
    (3, "a"): (-1.0, [-0.5, 1.0, 0.0]),
    (3, "b"): (0.0, [1.0, -1.0, 0.5]),
    (3, "c"): (4, [2, 8, 1, 5]),
    (4, "a"): (forced, [lambda d, L: L * [1 / d], lambda d, L: [1 / d] + (L - 1) * [1], lambda d, L: [1 / d, 1, 1]]),
    (4, "b"): (
        lambda d, L: math.log(d) / L,
        [lambda d, L: math.log2(d) / L, lambda d, L: math.log(d), lambda d, L: math.log(d) / (L - 1)],
    ),
    (4, "c"): (lambda L: L - 2, [lambda L: L - 1, lambda L: L - 3, lambda L: L, lambda L: 3]),
    (5, "a"): (lambda eps, H: (1 - eps) ** H, [lambda eps, H: 1 - eps, lambda eps, H: 1 - (1 - eps) ** H]),
    (5, "b"): (lambda eps, H: 1 / (1 - eps), [lambda eps, H: H / (1 - eps), lambda eps, H: 1 / eps, lambda eps, H: 1]),
    (5, "c"): (lambda L: L - 1, [lambda L: 1, lambda L: L, lambda L: L - 2]),
    (6, "a"): (-0.91, [0.91, -1.1, -0.5, -0.8]),
    (6, "b"): (2, [1, 4, 8, 256]),
    (6, "c"): (-0.98, [-0.9, 0.98, -2.0]),
    (7, "a"): (costs, [lambda p, t: costs(p, t) * math.log(2), lambda p, t: costs(p, t) * t.horizon, lambda p, t: 1.0]),
    (7, "b"): (
        lambda d2, H: 2 - 2 * (1 - d2 / 2) ** H,
        [lambda d2, H: d2 * H, lambda d2, H: 1 - (1 - d2 / 2) ** H, lambda d2, H: 2 - 2 * (1 - d2) ** H],
    ),
    (7, "c"): (13, [1, 5, 32]),
    (8, "a"): (lambda T, e: T * e / 2, [lambda T, e: T * e, lambda T, e: e / 2, lambda T, e: math.sqrt(T) * e]),
    (8, "b"): (0.5, [1, 0, -0.5, 2]),
    (8, "c"): (lambda T: T / 4, [lambda T: T / 2, lambda T: 4 / T, lambda T: T, lambda T: math.sqrt(T)]),
    (9, "a"): (lambda S: [S, S + 1, S + 2], [lambda S: [S - 1, S, S + 1], lambda S: [S + 1] * 3, lambda S: [0, 1, 2]]),
    (9, "b"): (8, [7, 9, 1]),
    (9, "c"): (0.5, [1.0, 0.94, 0.0]),
    (10, "a"): (errs_on, [lambda policy, task: task.horizon, lambda policy, task: 1, lambda policy, task: 31]),
    (10, "b"): (
        lambda H, K, eta: H / K * (1 - eta * (1 - math.log2(K) / math.log2(H))),
        [lambda H, K, eta: H / K, lambda H, K, eta: K / H, lambda H, K, eta: H * (1 - eta)],
    ),
}  # fmt: skip
LONG = [(2, "b"), *((3, part) for part in "abc"), *((6, part) for part in "abc"), (7, "c")]
CASES = [pytest.param(key, id=f"{key[0]}{key[1]}", marks=[pytest.mark.slow] * (key in LONG)) for key in QUESTIONS]
GARBAGE = [
    None,
    ...,
    "one half",
    [1, 2, 3],
    {},
    object(),
    math.nan,
    math.inf,
    1j,
    True,
    int,
    lambda: 0,
    lambda *a: 1 / 0,
]


@pytest.mark.parametrize("key", CASES)
def test_right_answers_pass_and_wrong_ones_fail(key):
    (sheet, part), (right, wrong) = key, ANSWERS[key]
    right = right() if QUESTIONS[key].cases is None and callable(right) else right
    assert judge(sheet, right, part) == (True, "Right.")
    for answer in wrong:
        verdict = judge(sheet, answer, part)
        assert not verdict.right and verdict.words.startswith("Not yet"), answer
    for words, slip in QUESTIONS[key].slips.items():
        answer = slip() if QUESTIONS[key].cases is None else slip
        assert judge(sheet, answer, part) == (False, f"Not yet. It looks like {words}.")


@pytest.mark.parametrize("key", [(1, "a"), (4, "a"), (5, "c"), (8, "b"), (9, "b")], ids=str)
def test_garbage_is_refused_in_a_sentence(key):
    for answer in GARBAGE:
        right, words = judge(key[0], answer, key[1])
        assert not right and re.fullmatch(r"[A-Z].*[.?]", words, flags=re.S) and "Traceback" not in words
        assert not words.startswith("Not yet. It looks like")


def test_the_words_say_what_is_wanted():
    said = {
        "There is no answer yet": judge(4, ..., "b"),
        "the function returns three dots": judge(4, lambda d, L: ..., "b"),
        "give its name, without calling it": judge(4, 0.3, "b"),
        "other arguments: (d, L) -> nats": judge(4, lambda d: d, "b"),
        "ZeroDivisionError": judge(4, lambda d, L: 1 / 0, "b"),
        "was a return": judge(4, lambda d, L: print(end=""), "b"),
        "without quotation marks": judge(8, "0.5", "b"),
        "A whole number is wanted": judge(9, 7.5, "b"),
        "has shape (3,), and shape (4,) is wanted": judge(4, lambda d, L: [1, 1 / d, 1], "a"),
        "not for d=5, L=5": judge(4, lambda d, L: math.log(d) / L if d != 5 else 1.0, "b"),
    }
    assert {words: verdict.words for words, verdict in said.items() if words not in verdict.words} == {}


def test_common_mistakes_are_named():
    nats = ANSWERS[4, "b"][0]
    said = {
        "factor of 2 too many": judge(4, lambda d, L: 2 * nats(d, L), "b"),
        "factor of 2 too few": judge(8, 0.25, "b"),
        "nats and bits": judge(4, lambda d, L: nats(d, L) / math.log(2), "b"),
        "whole sequence where one a token": judge(4, lambda d, L: L * nats(d, L), "b"),
        "one token where one for the whole sequence": judge(8, lambda T, e: e / 2, "a"),
        "one token shorter": judge(4, lambda d, L: math.log(d) / (L - 1), "b"),
        "off by one": judge(4, lambda L: L - 1, "c"),
        "wrong sign": judge(8, -0.5, "b"),
        "upside down": judge(8, lambda T: 4 / T, "c"),
        "percentage": judge(5, lambda eps, H: 100 * (1 - eps) ** H, "a"),
        "share of all the others": judge(5, lambda eps, H: 1 - (1 - eps) ** H, "a"),
    }
    assert {words: verdict.words for words, verdict in said.items() if words not in verdict.words} == {}


def test_the_check_computes_and_gives_nothing_away(monkeypatch, capsys):
    old = end_of_log_loss()
    assert judge(2, old).right
    check(2, 3 * old)
    assert capsys.readouterr().out == "Not yet.\n"
    monkeypatch.setattr(classroom, "SHORT", (8, 0.05))
    classroom._asked.cache_clear()
    try:
        assert not judge(2, old).right
    finally:
        classroom._asked.cache_clear()


def test_there_is_no_such_question():
    with pytest.raises(ValueError, match="sheet=11 must be an integer >= 1 and <= 10"):
        check(11, 1)
    with pytest.raises(ValueError, match="part='d' is not an option"):
        check(1, 1, part="d")


# -- notebooks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def make():
    for name in ("jupytext", "nbclient", "nbconvert", "ipykernel"):
        pytest.importorskip(name)
    spec = importlib.util.spec_from_file_location("classroom_make", HERE / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_students_get_gaps_and_hints_and_no_solutions(make):
    for sheet in SHEETS:
        full = make.read(sheet)
        student, solved = make.student(full), make.solution(full)
        text = "\n".join(cell.source for cell in student.cells)
        gaps = len(re.findall("# gap$", sheet.read_text("utf-8"), flags=re.M))
        assert code(student).count("...  # your turn") == gaps >= 1
        assert "# gap" not in text and "# gap" not in code(solved) and "your turn" not in code(solved)
        solutions = [cell.source for cell in full.cells if "solution" in cell.metadata.get("tags", ())]
        assert solutions and not any(source in text for source in solutions)
        assert text.count("<details><summary>Hint</summary>") >= 1
        for source in (code(student), code(solved)):
            compile(source.replace(";\n", "\n"), sheet.name, "exec")


@pytest.mark.slow
def test_an_unfilled_sheet_says_so_and_fails_nowhere(make, tmp_path):
    """All sheets in one process, as most of the time is that of importing."""
    files = []
    for sheet in SHEETS:
        files.append(tmp_path / sheet.name)
        files[-1].write_text(code(make.student(make.read(sheet))), encoding="utf-8")
    run = "import runpy, sys\nfor path in sys.argv[1:]:\n    runpy.run_path(path)\n    print('==')\n"
    done = subprocess.run([sys.executable, "-c", run, *map(str, files)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said = done.stdout.count("There is no answer yet")
    assert said == len(QUESTIONS) and "Right." not in done.stdout


def typed(notebook, answers):
    """What each check says when these lines are typed into the gaps, in a fresh kernel."""
    cells = [cell for cell in notebook.cells if "your turn" in cell.source]
    for cell, answer in zip(cells, answers, strict=True):
        cell.source = cell.source.replace("...  # your turn", answer)
    return cells


@pytest.mark.slow
def test_a_sheet_done_as_a_student_would(make):
    tries = {
        "Not yet. It looks like the first order in eps, which is no probability where eps H is large.": "1 - eps * H",
        "Not yet. It looks like a number for the whole sequence where one a token is asked for.": "H / (1 - eps)",
        "Not yet. It looks like that of the copier, whose slips are seen at once.": "1",
    }
    solved = {"Right.": ["(1 - eps) ** H", "1 / (1 - eps)", "L - 1"]}
    for said, answers in ((list(tries), tries.values()), (3 * list(solved), *solved.values())):
        notebook = make.student(make.read(SHEETS[4]))
        cells = typed(notebook, answers)
        make.run(notebook)
        assert [cell.outputs[-1]["text"].splitlines()[-1] for cell in cells] == said


@pytest.mark.slow
def test_a_page_needs_no_network_and_shows_what_was_computed(make, tmp_path):
    make.main(["--out", str(tmp_path), "--sheets", "1"])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "01_factor.html",
        "01_factor.ipynb",
        "01_factor_solution.ipynb",
    ]
    page = (tmp_path / "01_factor.html").read_text("utf-8")
    assert "<script" not in page and not re.search(r'(?:src|href)="https?:|@import|url\(["\']?http', page)
    assert page.count("Right.") == 2 and "data:image/png;base64" in page and "width=device-width" in page


# -- plots -------------------------------------------------------------------------------------------------------------


def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def sampled(values, metric="hellinger2", **more):
    values = np.array(values, dtype=float)
    return DistanceCurve(metric, values, values * 0.9, values * 1.1, "made", 100, values * 0.05, **more)


def test_a_curve_draws_its_values_its_band_and_says_what_they_are():
    curve = sampled([0.1, 0.2, 0.4])
    ax = curve.plot(axes(), label="mine", color="#112233")
    (line,), (band,) = ax.lines, ax.collections
    assert line.get_xdata().tolist() == [1, 2, 3] and line.get_ydata().tolist() == curve.values.tolist()
    assert line.get_color() == "#112233" and line.get_label() == "mine"
    edges = band.get_paths()[0].vertices
    assert np.isclose(edges[:, 1].min(), 0.09) and np.isclose(edges[:, 1].max(), 0.44)
    assert ax.get_ylabel() == "squared Hellinger distance, 0 to 2"
    assert ax.get_xlabel() == "tokens written, h\n(band: 95 % at each h)" and ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mine"]


def test_an_exact_curve_has_no_band_and_no_legend_without_a_name():
    task = make_task("Contamination", horizon=8)
    ax = distance(task.expert, UniformPolicy(2), task, metric="tv").plot(axes())
    assert not ax.collections and ax.get_legend() is None and ax.get_xlabel() == "tokens written, h"
    assert ax.get_ylabel() == "total variation distance, 0 to 1"


def test_coverage_has_a_line_for_each_threshold_and_infinite_values_are_named():
    task = make_task("Contamination", horizon=4)
    ax = distance(task.expert, UniformPolicy(2), task, metric="coverage", thresholds=[2, 8]).plot(axes(), label="coin")
    assert [line.get_label() for line in ax.lines] == ["coin, N = 2", "coin, N = 8"]
    assert ax.lines[0].get_color() != ax.lines[1].get_color()
    always = CallablePolicy(lambda prompts, tokens: np.tile([0.0, -np.inf], (len(tokens), 1)), 2)
    ax = distance(UniformPolicy(2), always, task, metric="kl").plot(axes())
    assert ax.lines[0].get_label() == "(infinite from h = 1)"
    curve = DistanceCurve("kl", np.ones(2), np.zeros(2), np.array([2.0, np.inf]), "made", 9, np.ones(2))
    assert np.isfinite(curve.plot(axes()).get_ylim()).all()


def test_curves_are_compared_under_their_names():
    curves = {"a": sampled([0.1, 0.2]), "b": DistanceCurve.exact("hellinger2", np.array([0.5, 1.0, 2.0]), "made")}
    ax = compare_curves(curves, axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert len(ax.collections) == 1 and "95 %" in ax.get_xlabel()
    assert len({line.get_color() for line in ax.lines}) == 2
    ax = compare_curves(curves, axes(), additive=True)
    assert np.allclose(ax.lines[0].get_ydata(), additive_distance([0.1, 0.2]))
    assert ax.lines[1].get_label() == "b (infinite from h = 3)" and "D²" in ax.get_ylabel()
    both = {"a": sampled([0.1]), "b": sampled([0.1], confidence=0.9)}
    ax = compare_curves(both, axes())
    assert [line.get_label() for line in ax.lines] == ["a (band: 95 % at each h)", "b (band: 90 % at each h)"]


def test_the_additive_scale_adds_up():
    task = make_task("BernoulliMixture", horizon=6, q=0.5)
    values = distance(UniformPolicy(2), task.policy_class.policy(0.3), task).values
    assert np.allclose(additive_distance(values), additive_distance(values[0]) * np.arange(1, 7))


def test_what_cannot_be_drawn_is_refused():
    tv, near = sampled([0.1], "tv"), sampled([0.1])
    for error, words, curves, additive in (
        (TypeError, "mapping from names to curves", [near], False),
        (TypeError, "DistanceCurve", {"a": 1}, False),
        (ValueError, "is empty", {}, False),
        (ValueError, "has hellinger2 and tv", {"a": near, "b": tv}, False),
        (ValueError, "is for curves of 'hellinger2'", {"a": tv}, True),
        (TypeError, "additive=1", {"a": near}, 1),
    ):
        with pytest.raises(error, match=words):
            compare_curves(curves, axes(), additive=additive)
    with pytest.raises(TypeError, match="must be a matplotlib Axes, not str"):
        near.plot("here")


def test_an_evaluation_draws_three_lines_with_their_intervals():
    task = make_task("PathStar")
    found = evaluate(UniformPolicy(task.vocab_size), task, n=40, rng=np.random.default_rng(0))
    ax = found.plot(axes(), confidence=0.8)
    for line, band, how in zip(ax.lines, ax.collections, ("forced", "greedy", "sampled"), strict=True):
        assert line.get_ydata().tolist() == getattr(found, f"{how}_accuracy").tolist()
        lower, upper = found.interval(f"{how}_accuracy", confidence=0.8)
        edges = band.get_paths()[0].vertices[:, 1]
        assert np.isclose(edges.min(), lower.min()) and np.isclose(edges.max(), min(upper.max(), edges.max()))
    assert ax.get_xlabel() == "tokens written, h\n(band: 80 % at each h, n = 40)"


def test_without_axes_there_is_a_new_figure_of_pyplot():
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    ax = sampled([0.1, 0.2]).plot()
    (number,) = set(plt.get_fignums()) - before
    assert plt.figure(number) is ax.figure
    plt.close(number)
