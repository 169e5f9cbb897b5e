"""NTP-Bench: the fixed list, its scores, the file to submit, and a leaderboard that believes nothing."""

import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import experiments_toy as toy
import numpy as np
import pytest

from experiments.aggregate import colour_of, looks_of, profile_figure, run_score
from experiments.charts import styled
from experiments.cli import main
from experiments.evaluation import build_task
from experiments.leaderboard import Refused, is_foreign, page, read_submission
from experiments.studies import load_study, suite
from experiments.testing import check_study

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import suite_scores  # noqa: E402

sys.path.remove(str(ROOT / "docs"))

STUDY = load_study("suite")
SUBMITTED = sorted((ROOT / "experiments" / "submissions").glob("*.json"))


@pytest.fixture(scope="module")
def tiny():
    """The list, as short as it can be."""
    tracks = (
        suite.Track(suite.CLOSED, ("Contamination(eps=0.05, p=0.01, q=0.9)",), (4, 8), 40),
        suite.Track(suite.TEXT, ("Text(expert_order=2, max_chars=20000)",), (2,), 40, dial=True),
        suite.Track(suite.PLANNING, ("NoisyParity(bits=2, subset=(0,))",), (), 40),
        suite.Track(suite.MODELS, ("experiments.seeded_model:SeededModel",), (2,), 10, needs="no_such_module"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suite.SIZES, "smoke", (tracks, 2))
        yield tracks


@pytest.fixture(scope="module")
def outcome(tiny, tmp_path_factory):
    return check_study(STUDY, toy.small_options("suite"), out=tmp_path_factory.mktemp("suite") / "run")


@pytest.fixture
def submitted(outcome, tmp_path):
    """A folder with what the run left to submit, by agent."""
    folder = tmp_path / "submitted"
    folder.mkdir()
    found = {}
    for path in outcome.folder.path.glob("submission-*.json"):
        found[json.loads(path.read_text())["agent"]] = folder / path.name
        (folder / path.name).write_bytes(path.read_bytes())
    return found


TRACKS = (suite.CLOSED, suite.TEXT, suite.PLANNING, suite.MODELS)


# -- the list and its scores -------------------------------------------------------------------------------------------


def test_a_name_is_looked_for_once_a_track_and_not_for_every_cell(monkeypatch):
    """What is behind a name that no registry has is sought in all that is installed: seconds, cell by cell."""
    asked = []
    monkeypatch.setattr(suite, "named_code", lambda text: asked.append(text) or (text,))
    cells = list(suite.cells(suite.SuiteOptions()))
    assert len(cells) > 500 and len(asked) <= 4 * 4 + 14
    assert all(cell.code == (cell.parameters["agent"], cell.parameters["task"]) for cell in cells)


def test_of_many_agents_no_two_look_alike_and_the_axes_keep_their_room():
    agents = [f"LogLossBC(tol={k})" for k in range(6)] + [f"other{k}:Agent" for k in range(12)]
    looks = looks_of(agents)
    assert len({tuple(look.values()) for look in looks.values()}) == len(agents)
    assert looks_of(["RhoEstimatorBC"])["RhoEstimatorBC"]["color"] == colour_of("RhoEstimatorBC")
    heights = []
    for some in (agents[:2], agents):
        with styled():
            figure = profile_figure({agent: np.array([0.2, 0.7]) for agent in some}, "Who?")
            figure.canvas.draw()
            heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] > 0.8 * heights[0] > 100


def test_the_list_is_the_version():
    """Whoever changes it makes another version: then this is what to change, with `suite.VERSION`."""
    assert (suite.NAME, suite.VERSION) == ("NTP-Bench 1", "1.0")
    assert {size: (sum(len(suite.places(t)) for t in tracks) * seeds) for size, (tracks, seeds) in suite.SIZES.items()
            if size != "smoke"} == {"full": 270, "quick": 57}  # fmt: skip
    for tracks, _ in suite.SIZES.values():
        assert [track.name for track in tracks] == [suite.CLOSED, suite.TEXT, suite.PLANNING, suite.MODELS]


def test_every_task_of_every_size_can_be_made():
    for tracks, _ in suite.SIZES.values():
        for task, horizon in (place for track in tracks if not track.needs for place in suite.places(track)):
            assert build_task(task, horizon).horizon == (horizon or build_task(task).horizon)


def test_models_are_drawn_with_their_seeds():
    pytest.importorskip("transformers")
    one, same, other = (build_task(f"experiments.seeded_model:SeededModel(seed={seed})", 3) for seed in (0, 0, 1))
    assert one == same and one != other and hash(one) == hash(same)
    tokens = np.zeros((1, 3), dtype=np.int64)
    laws = [task.expert.log_probs(task.sample_prompts(1, np.random.default_rng(0)), tokens) for task in (one, other)]
    assert not np.allclose(*laws) and len(one.policy_class) == 4


def test_scores_are_means_over_tasks_and_what_is_not_for_a_task_scores_nothing(outcome):
    summary, size = outcome.summary, "2 data sets"
    rows = summary.select("C_apx", part="runs", learner="RhoEstimatorBC", task="Contamination(eps=0.05, p=0.01, q=0.9)")
    by_hand = np.mean([run_score(1.0, row.mean) for row in rows])
    assert len(rows) == 4
    assert summary.value(f"{suite.CLOSED}: score", learner="RhoEstimatorBC") == pytest.approx(by_hand)
    dial = summary.select("hellinger2", part="runs", learner="NGramDialBC(agent=RhoEstimatorBC)")
    scores = [run_score(row.mean) for row in dial]
    assert summary.value(f"{suite.TEXT}: score", learner="RhoEstimatorBC") == pytest.approx(np.mean(scores))
    assert not summary.select("hellinger2", learner="NGramDialBC(agent=NGramBC)"), "it takes the class as it is"
    assert summary.value(f"{suite.TEXT}: score", learner="NGramBC") > 0
    assert summary.value(f"{suite.CLOSED}: score", learner="NGramBC") == 0.0
    each = [summary.value(f"{track}: score", learner="NGramBC") for track in (suite.CLOSED, suite.TEXT, suite.PLANNING)]
    assert summary.value(f"{suite.OVERALL}: score", learner="NGramBC") == pytest.approx(np.mean(each))
    said = "\n".join(outcome.analysis.findings)
    assert "NGramBC is not for" in said and 'track "language models" is left out' in said
    assert size in outcome.analysis.tables[0].note


# -- submissions -------------------------------------------------------------------------------------------------------


def test_a_submission_says_the_same_as_the_report(outcome, submitted):
    assert set(submitted) == {"RhoEstimatorBC", "NGramBC"}
    for agent, path in submitted.items():
        entry = read_submission(path)
        for row in entry.scores:
            (other,) = outcome.summary.select(row.metric, part=suite.SUITE, learner=agent)
            assert (row.mean, row.lower, row.upper) == pytest.approx(
                (other.mean, other.lower, other.upper), nan_ok=True
            )
        content = entry.content
        assert content["made"]["distributions"]["numpy"].startswith(np.__version__) and content["seed"] == 0
        assert all("agents/selection.py" in content["code"][cell["code"]] for cell in content["cells"]
                   if cell["parameters"]["agent"].startswith("NGramDialBC"))  # fmt: skip


def test_the_leaderboard_is_one_page_and_recomputes(submitted, tmp_path, capsys):
    folder = next(iter(submitted.values())).parent
    out = tmp_path / "page.html"
    assert main(["leaderboard", str(folder), "--out", str(out), "--verify", "--seed", "1"]) == 0
    text = out.read_text()
    assert "RhoEstimatorBC" in text and "1 of 8 cells recomputed" in text and "not run" in text
    assert not re.search(r"<script|https?://|src=|@import|url\(", text) and "prefers-color-scheme: dark" in text
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("RhoEstimatorBC, smoke: 0.") and shown[-1] == f"page: {out}"


def changed(path, change, *, seal=True):
    """Another version of a submission; with its checksum right, as whoever lies would have it."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(suite.sealed(content) if seal else json.dumps(content))


def first(content, agent_part=""):
    return next(cell for cell in content["cells"] if agent_part in cell["parameters"]["task"])


def of(content, metric):
    return next(record for record in first(content)["records"] if record["metric"] == metric)


LIES = {
    "its checksum is another": (lambda c: of(c, "hellinger2").update(value=0.0), False),
    "version is '0.9'": (lambda c: c.update(version="0.9"), True),
    "there is no size": (lambda c: c.update(size="huge"), True),
    "'seed' is of another type": (lambda c: c.update(seed=True), True),
    "it has no 'agent'": (lambda c: c.pop("agent"), True),
    "'more' is not a field": (lambda c: c.update(more=1), True),
    "its agent is no name": (lambda c: c.update(agent="x\n<b>"), True),
    "C_apx is 1, not": (lambda c: of(c, "C_apx").update(value=1.0), True),
    "outside [0, 2]": (lambda c: of(c, "hellinger2").update(value=-1), True),
    "'nought' is no number": (lambda c: of(c, "hellinger2").update(value="nought"), True),
    "C_apx where there is none": (lambda c: first(c)["records"].remove(of(c, "C_apx")), True),
    "hellinger2 twice": (lambda c: first(c)["records"].append(of(c, "hellinger2")), True),
    "unknown measure": (lambda c: first(c)["records"].append({"metric": "beauty", "value": 1}), True),
    "an unknown measure": (lambda c: of(c, "C_apx").update(metric=["C_apx"]), True),
    "is no number": (lambda c: first(c).update(records=[{"metric": "hellinger2", "value": 10**400}]), True),
    "no distance": (lambda c: first(c).update(records=[]), True),
    "it failed, and has numbers": (lambda c: first(c).update(error="no"), True),
    "the code is not listed": (lambda c: first(c).update(code="0"), True),
    "another H": (lambda c: first(c).update(H=1), True),
    "are missing": (lambda c: c["cells"].pop(), True),
    "a cell stands twice": (lambda c: c["cells"].append(c["cells"][0]), True),
    "cells that are not of the suite": (
        lambda c: c["cells"].append({**first(c), "parameters": {**first(c)["parameters"], "n": 9}}),
        True,
    ),
}


@pytest.mark.parametrize("words", LIES)
def test_a_submission_that_was_changed_is_refused(words, submitted):
    change, seal = LIES[words]
    path = submitted["RhoEstimatorBC"]
    changed(path, change, seal=seal)
    with pytest.raises(Refused, match=re.escape(words)):
        read_submission(path)


def test_a_lie_that_fits_is_found_by_recomputing(submitted, tmp_path, capsys):
    """All distances halved, with the factors that belong to them: only a run tells."""

    def halve(content):
        for cell in content["cells"]:
            for record in cell["records"]:
                if record["metric"] in ("hellinger2", "C_apx"):
                    record["value"] /= 2

    changed(submitted["RhoEstimatorBC"], halve)
    read_submission(submitted["RhoEstimatorBC"])
    out = tmp_path / "page.html"
    assert main(["leaderboard", str(tmp_path / "submitted"), "--out", str(out), "--verify", "--seed", "0"]) == 1
    assert "when it was run again, not" in out.read_text() and "NGramBC" in out.read_text()
    assert "refused: submission-smoke-RhoEstimatorBC" in capsys.readouterr().err


DAMAGED = {
    "empty.json": b"",
    "not-utf8.json": b"\xff\xfe{",
    "deep.json": b"[" * 100_000,
    "list.json": b"[]",
    "nan.json": b'{"seed": NaN}',
    "twice.json": b'{"seed": 1, "seed": 2}',
    "digits.json": b'{"seed": ' + b"9" * 5000 + b"}",
    "<img src=x onerror=alert(1)>.json": b"{}",
}


def test_damaged_and_hostile_files_are_refused_by_name_and_the_rest_goes_on(submitted, tmp_path):
    folder = tmp_path / "submitted"
    for name, content in DAMAGED.items():
        (folder / name).write_bytes(content)
    (folder / "folder.json").mkdir()
    (folder / "link.json").symlink_to("/etc/hostname")
    with (folder / "large.json").open("wb") as file:
        file.truncate(9_000_000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.json")
    out = tmp_path / "page.html"
    assert main(["leaderboard", str(folder), "--out", str(out)]) == 1
    text = out.read_text()
    assert text.count("<li>") == len(list(folder.iterdir())) - 2 and "RhoEstimatorBC" in text and "<img" not in text


def test_names_in_a_submission_are_words_on_the_page_and_nothing_is_imported(submitted, tmp_path, monkeypatch):
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))

    def rename(content):
        old, new = content["agent"], "trap:Agent(x='<b>&')"
        content["agent"] = new
        for cell in content["cells"]:
            mine = cell["parameters"]["agent"] == old
            cell["parameters"]["agent"] = new if mine else suite.dialled(new)

    changed(submitted["RhoEstimatorBC"], rename)
    changed(submitted["NGramBC"], lambda content: content["made"].update(date="\ud800<i>", commit=["x" * 10**6]))
    out = tmp_path / "page.html"
    assert main(["leaderboard", str(tmp_path / "submitted"), "--out", str(out), "--verify", "--seed", "0"]) == 0
    assert "trap:Agent(x=&#x27;&lt;b&gt;&amp;&#x27;)" in out.read_text() and "--trust imports it" in out.read_text()
    assert "?&lt;i&gt;" in out.read_text() and len(out.read_text()) < 20_000


def test_what_is_foreign():
    ours = ("LogLossBC", "ChunkedRhoBC(chunk=8)", "TournamentBC(agents=[LogLossBC, NGramBC(order=2)])")
    theirs = ("os:system", "myalg:MyBC(tol=1)", "TournamentBC(agents=[LogLossBC, os.X])", "x(", "lambda: 1")
    assert not any(map(is_foreign, ours)) and all(map(is_foreign, theirs))


def test_a_folder_is_needed_and_an_empty_one_has_a_page(tmp_path, capsys):
    assert main(["leaderboard", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["leaderboard", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    assert "There is no submission yet." in page([], {})


# -- our own -----------------------------------------------------------------------------------------------------------


def test_our_own_submissions_are_accepted():
    entries = [read_submission(path) for path in SUBMITTED]
    agents = set(dataclasses.fields(suite.SuiteOptions)[0].default)
    assert {entry.content["agent"] for entry in entries} >= agents
    assert len({entry.group for entry in entries}) == 1
    best = max(entries, key=lambda entry: entry.scores.value(f"{suite.CLOSED}: score"))
    assert best.content["agent"] == "RhoEstimatorBC"
    scores = suite_scores.scores_of(SUBMITTED[0].parent)
    assert scores.keys() == {entry.content["agent"] for entry in entries}
    assert f"\n\n{suite_scores.table(scores)}\n" in suite_scores.PAGE.read_text(encoding="utf-8")


def test_the_scores_of_our_other_agents_are_the_means_of_their_runs(tmp_path, monkeypatch):
    """And the script that wrote them, asked again, writes the same page; of new submissions, new lines."""
    page, scores = (path.read_text(encoding="utf-8") for path in (suite_scores.PAGE, suite_scores.SCORES))
    for name in ("PAGE", "SCORES"):
        (tmp_path / name).write_text({"PAGE": page, "SCORES": scores}[name], encoding="utf-8")
        monkeypatch.setattr(suite_scores, name, tmp_path / name)
    suite_scores.main(tmp_path)
    assert (tmp_path / "PAGE").read_text(encoding="utf-8") == page
    assert (tmp_path / "SCORES").read_text(encoding="utf-8") == scores
    for agent, each in json.loads(scores).items():
        shapes = {track.name: (len(track.tasks), 10) for track in suite.SIZES["full"][0]}
        assert {name: np.shape(runs) for name, runs in each.items()} == shapes, agent
        assert all(np.min(runs) >= 0 and np.max(runs) <= 1 for runs in each.values()), agent
    monkeypatch.setattr(suite_scores, "SUBMITTED", tmp_path)
    suite_scores.main(SUBMITTED[0].parent)
    assert "| `NGramBC` |" in (tmp_path / "PAGE").read_text(encoding="utf-8").split(suite_scores.BEFORE)[1]
