"""``ntp-bench evaluate``: what it prints and writes; and the calls by which tasks and agents are named."""

import json
import keyword
import string

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from laws import examples

from experiments.cli import main
from experiments.evaluation import Call, build_agent, build_task, named_code, parse_call, split_calls, takes_horizon
from experiments.studies.compare import CompareOptions
from ntp_envs import make_task
from ntp_envs.evaluation import evaluate


def run(capsys, *words):
    code = main(["evaluate", *words])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_the_expert_of_a_task_is_always_right(capsys, tmp_path):
    out = tmp_path / "numbers.json"
    code, printed, _ = run(capsys, "Snowball(horizon=12)", "--n", "50", "--backtrack", "1", "--json", str(out))
    assert code == 0 and "greedy exact" in printed and "target" in printed
    numbers = json.loads(out.read_text())
    totals = {row["measure"]: row["value"] for row in numbers["totals"]}
    assert totals["greedy_exact"] == totals["sampled_success"] == totals["backtracking_accepted"] == 1.0
    assert totals["backtracking_cost"] == 1.0 and totals["mean_cross_entropy"] == 0.0
    assert [row["h"] for row in numbers["positions"]] == list(range(1, 13)) and len(numbers["samples"]) == 2


def test_an_agent_is_fitted_and_its_numbers_are_those_of_the_library(capsys, tmp_path):
    words = ("PathStar(degree=3, length=4)", "LogLossBC(tol=1e-6)", "--demonstrations", "200", "--n", "300")
    saved, out = tmp_path / "agent", tmp_path / "numbers.json"
    code, _, _ = run(capsys, *words, "--save", str(saved), "--json", str(out), "--seed", "3")
    assert code == 0
    first = json.loads(out.read_text())
    code, printed, _ = run(capsys, words[0], "--load", str(saved), "--n", "300", "--json", str(out), "--seed", "3")
    assert code == 0 and "LogLossBC" in printed
    assert json.loads(out.read_text()) == first
    totals = {row["measure"]: (row["value"], row["lower"], row["upper"]) for row in first["totals"]}
    _, lower, upper = totals["sampled_exact"]
    assert lower < 1 / 3 < upper  # Clever Hans
    task = make_task("PathStar", degree=3, length=4)
    from agents import LogLossBC

    again = evaluate(LogLossBC.load(saved).policy_, task, n=300, rng=np.random.default_rng([3, 1]))
    assert again.sampled_exact == totals["sampled_exact"][0]
    assert again.forced_accuracy.tolist() == [row["forced_accuracy"] for row in first["positions"]]


def test_a_saved_agent_runs_nothing_unless_it_may(capsys, tmp_path, monkeypatch):
    (tmp_path / "my_learner.py").write_text(
        "from agents import LogLossBC\nfrom ntp_envs import CallablePolicy\n\nclass Plain(LogLossBC):\n    pass\n\n"
        "class Odd(Plain):\n    def _fit(self, *given):\n        policy, report = super()._fit(*given)\n"
        "        return CallablePolicy(policy.next_log_probs, 2, prompt_length=1), report\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words, path = ("Contamination(horizon=4)", "--n", "20"), str(tmp_path / "agent")
    fit = (words[0], "my_learner:Plain", *words[1:], "--demonstrations", "20", "--save", path)
    assert run(capsys, *fit)[0] == 0
    code, _, said = run(capsys, *words, "--load", path)
    assert code == 2 and "'my_learner:Plain', which is not a class of ntp-envs" in said and "Traceback" not in said
    assert run(capsys, *words, "--load", path, "--trusted", "my_learner:Plain")[0] == 0
    code, _, said = run(capsys, *words, "--load", path, "--trusted", "my_learner:Plan")
    assert code == 2 and "--trusted my_learner:Plan: there is no such class" in said
    odd = [word.replace("Plain", "Odd") for word in fit]
    code, _, said = run(capsys, *odd)
    assert code == 2 and "policy_.function" in said
    assert run(capsys, *odd, "--allow-pickle")[0] == 0
    code, _, said = run(capsys, *words, "--load", path)
    assert code == 2 and "it holds a pickle" in said
    assert run(capsys, *words, "--load", path, "--allow-pickle")[0] == 0


def test_a_network_in_the_place_of_the_task_s_class(capsys):
    pytest.importorskip("torch")
    code, printed, _ = run(
        capsys,
        "Contamination(horizon=6)",
        "agents.neural:NeuralBC(steps=3)",
        *("--network", "mlp(width=4, layers=1)", "--demonstrations", "20", "--n", "10"),
    )
    assert code == 0 and "NeuralBC(steps=3)" in printed


def test_infinite_numbers_are_written_as_text(capsys, tmp_path):
    out = tmp_path / "numbers.json"
    words = ("RareMode(horizon=4)", "LogLossBC", "--demonstrations", "3", "--n", "2000", "--json", str(out))
    assert run(capsys, *words)[0] == 0
    assert json.loads(out.read_text())["n"] == 2000


def test_every_interval_has_the_level_that_is_asked_for(capsys, tmp_path):
    out, words = tmp_path / "numbers.json", ("PathStar(degree=3, length=4)", "LogLossBC", "--demonstrations", "200")
    widths = {}
    for level, heading in (("0.8", "80 % interval"), ("0.995", "99.5 % interval")):
        code, printed, _ = run(capsys, *words, "--n", "300", "--confidence", level, "--json", str(out))
        numbers = json.loads(out.read_text())
        assert code == 0 and heading in printed and "95 %" not in printed and numbers["confidence"] == float(level)
        (row,) = [row for row in numbers["totals"] if row["measure"] == "sampled_exact"]
        assert f"[{row['lower']:.4g}, {row['upper']:.4g}]" in printed
        widths[level] = row["upper"] - row["lower"]
    assert widths["0.995"] / widths["0.8"] == pytest.approx(2.807 / 1.282, rel=0.1)  # of normal quantiles


def test_without_words_it_says_how_it_is_used(capsys):
    code, printed, _ = run(capsys)
    assert code == 0 and "TASK" in printed and "--backtrack" in printed


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("LogLossBC", Call("LogLossBC")),
        (" pkg.mod:Class ", Call("pkg.mod:Class")),
        ("LogLossBC()", Call("LogLossBC")),
        ("my-agent(b=[1, 2], a='x, y)')", Call("my-agent", (("a", "x, y)"), ("b", [1, 2])))),
        (
            "A(x=-1e-3, y=None, z=(0, 1), w={'k': True})",
            Call("A", (("w", {"k": True}), ("x", -1e-3), ("y", None), ("z", (0, 1)))),
        ),
        (
            "TournamentBC([LogLossBC, pkg.mod.Mine(tol=1)], tau='psi')",
            Call(
                "TournamentBC", (("agents", [Call("LogLossBC"), Call("pkg.mod:Mine", (("tol", 1),))]), ("tau", "psi"))
            ),
        ),
    ],
)
def test_calls_are_read(text, call):
    assert parse_call(text) == call
    assert parse_call(str(call)) == call


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


names = st.text(string.ascii_lowercase, min_size=1, max_size=6).filter(lambda name: not keyword.iskeyword(name))


@examples(25)
@example([Call("A", (("x", "\\'\",)"), ("y", 1))), Call("B")])
@given(
    st.lists(
        st.builds(Call, names, st.dictionaries(names, literals).map(lambda d: tuple(sorted(d.items())))), max_size=4
    )
)
@pytest.mark.slow
def test_calls_survive_text_and_commas(calls):
    assert [parse_call(text) for text in split_calls([",".join(map(str, calls))])] == calls


def test_agents_are_made_of_agents_and_of_nothing_else():
    task = make_task("Contamination", horizon=4)
    made = build_agent("TournamentBC({'a': ChunkedRhoBC(chunk=2), 'b': BestInClass})", task)
    assert made.agents["a"].chunk == 2 and made.agents["b"].task is task
    assert named_code("TournamentBC([LogLossBC, compare_agents.Curious])") == (
        "agents.selection:TournamentBC",
        "agents.log_loss:LogLossBC",
        "compare_agents:Curious",
    )
    with pytest.raises(TypeError, match="PathLike"):
        build_agent("TournamentBC([os.PathLike])", task)
    with pytest.raises(ValueError, match="text needs quotes"):
        build_agent("TournamentBC([os.system('x')])", task)


def test_an_agent_that_wants_the_task_gets_it():
    task = make_task("Contamination", horizon=4)
    assert build_agent("BestInClass", task).task is task
    assert build_agent("compare_agents:Curious(queries=3)", task).queries == 3
    assert build_agent("LogLossBC(tol=0.1)", task).tol == 0.1


def test_the_horizon_of_a_task_is_open_unless_it_is_given_or_no_parameter():
    assert takes_horizon("RareMode") and takes_horizon("RareMode(eps=0.1)")
    assert not takes_horizon("RareMode(horizon=3)") and not takes_horizon("NoisyParity(episodes=2)")
    assert build_task("RareMode(eps=0.1)", 5).horizon == 5 and build_task("NoisyParity(episodes=2)").horizon == 10
    options = CompareOptions(tasks=("RareMode(horizon=3),Tightrope", "NoisyParity"), horizons=(8, 4))
    assert options.places() == [
        ("RareMode(horizon=3)", None),
        ("Tightrope", 4),
        ("Tightrope", 8),
        ("NoisyParity", None),
    ]
