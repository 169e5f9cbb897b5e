"""What the package experiments refuses, and in which words.

That no option of a study goes beyond its bounds is checked by `experiments.testing.check_study` for all of them; here
are the words of each kind of bound, and what options must fulfil together.
"""

import re

import experiments_toy as toy
import numpy as np
import pytest

from experiments.cells import Cell, CellResult, Record
from experiments.cli import main
from experiments.evaluation import parse_call
from experiments.measure import draw
from experiments.studies import load_study
from experiments.study import Study
from experiments.summary import Summary, SummaryRow, mean_interval, summarise
from ntp_envs import make_task

RNG = np.random.default_rng(0)
CELL = Cell("a", toy.noisy_square, {})


def options(study, **changes):
    return lambda: load_study(study).options(**changes)


def cells(*made):
    return lambda: Study("s", "?", toy.ToyOptions, lambda options: made, toy.analyse).checked_cells(toy.ToyOptions())


def undeclared():
    results = {CELL.key: CellResult(CELL.key, (Record("x", 1.0, {"norm_bound": 2}),), None, 0.0)}
    summarise(toy.STUDY, [CELL], results, 0)


TWICE = Summary(SummaryRow("p", {"H": 4, "learner": who}, "C", 4.0, 4.0, 4.0, 1) for who in "ab")
ROWS = [
    # the kinds of bounds
    ("nothing", options("amplification", horizons=()), ValueError, "horizons=() must hold distinct values, at least"),
    ("twice", options("amplification", chunks=(4, 4)), ValueError, "chunks=(4, 4) must hold distinct values"),
    ("no tuple", options("amplification", chunks=4), TypeError, "chunks=4 must be a tuple"),
    ("least", options("rl", steps=0), ValueError, "steps=0"),
    ("most", options("length", subset_size=21), ValueError, "subset_size=21 must be an integer >= 3 and <= 20"),
    ("least of reals", options("tradeoff", norm_bounds=(0.1,)), ValueError, "norm_bounds=0.1 must be a finite"),
    ("most of reals", options("shuffled", contamination=0.5), ValueError, "must be a finite number in (-inf, 0.25]"),
    ("above", options("shuffled", contamination=0.0), ValueError, "contamination=0.0 must be above 0."),
    ("above and below", options("length", target=1.0), ValueError, "target=1.0 must be above 0 and below 1."),
    ("power", options("barrier", horizons=(16, 48), data_horizon=16), ValueError, "horizons=48 must be a power of"),
    ("one of", options("snowball", detail_horizon=5), ValueError, "detail_horizon=5 must be one of horizons=("),
    ("choice", options("multiplication", neural="maybe"), ValueError, "neural='maybe'"),
    ("most, an option", options("tradeoff", chunks=(4, 65)), ValueError, "chunks=65 must be an integer >= 2 and <= 64"),
    # what options must fulfil together
    ("even", options("multiplication", every=5), ValueError, "every=5 must be even"),
    ("digits", options("multiplication", digits=(5,)), ValueError, "digits=(5,) begins with none of explicit_digits="),
    ("heads", options("pathstar", heads=5), ValueError, "heads=5 must divide width=64"),
    ("width", options("scaling", transformer_widths=(18,)), ValueError, "widths=18 must be a multiple of 4"),
    ("batch", options("scaling", n=16, batch_size=16), ValueError, "batch_size=16 must be below n=16"),
    ("window", options("scaling", horizon=6, window=7), ValueError, "window=7"),
    ("windows", options("scaling", horizon=6, window=3, windows=(1, 9)), ValueError, "windows=9"),
    ("uniform", options("snowball", eps=0.95), ValueError, "eps=0.95 must be below 0.9"),
    (
        "rank",
        options("stability", chunks=(1,), linear_chunks=(1,), horizon=7),
        ValueError,
        "8 must be at most horizon=7",
    ),
    ("orders", options("text", orders=(2, 9)), ValueError, "orders=9"),
    ("history", options("text", mlp_window=999), ValueError, "mlp_window=999"),
    ("repeated", options("tradeoff", chunks=(2,), long_chunks=(2, 10)), ValueError, "long_chunks=(2, 10) repeats [2]"),
    ("episodes", options("tradeoff", parity_chunks=(21,)), ValueError, "parity_chunks=21 must be at most 20"),
    # studies and their numbers
    ("key", cells(CELL, CELL), ValueError, "two cells with the same key"),
    ("no cells", cells(), ValueError, "no cells"),
    ("no quick form", lambda: Study("bad", "?", int, toy.cells, toy.analyse), TypeError, "quick"),
    ("label", undeclared, ValueError, "labels ['norm_bound'] in part 'a'; add them to Study.labels"),
    ("two rows", lambda: TWICE.value("C", H=4), ValueError, "2 rows match"),
    ("no replicates", lambda: mean_interval([], RNG), ValueError, "values is empty"),
    ("percent", lambda: mean_interval([1.0, 2.0], RNG, confidence=95), ValueError, "confidence=95 must lie in (0, 1)"),
    ("law", lambda: draw(make_task("Contamination", horizon=64), 5, RNG), ValueError, "not the complete law"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_it_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


SPECS = {
    "A B": "'A B' is not a name",
    "A(x=1": "never closed",
    "A(x=1))": "unmatched",
    "A(x=1) + 2": "after the closing parenthesis",
    "A(**{'x': 1})": "given by name",
    "A(x=1, x=2)": "x is given twice",
    "A(lam=1/H)": "lam=1 / H is not a number",
    "A(x=__import__('os').getcwd())": "is not a number",
    "A(x=name)": "text needs quotes",
    "A('x\0')": "cannot be read",
}


@pytest.mark.parametrize("text", SPECS)
def test_a_spec_is_refused_and_a_right_one_is_shown(text):
    with pytest.raises(ValueError, match=re.escape(SPECS[text])) as caught:
        parse_call(text)
    assert "ChunkedRhoBC(chunk=8" in str(caught.value)


TOY, COMPARE = "run experiments_toy:STUDY", "run compare"
COMMANDS = [
    ("run amplificaton", "Did you mean 'amplification'?"),
    ("rnu amplification", "Did you mean 'run'?"),
    ("run nowhere.to:BE", "cannot be imported"),
    ("run experiments_toy:cells", "not an experiments.study.Study"),
    ("run --quick amplification", "study comes first"),
    ("list everything", "s: everything"),
    (f"{TOY} --seedz 3", "--seeds"),
    (f"{TOY} --sizes one", "--sizes"),
    (f"{TOY} --workers 0", "workers=0"),
    (f"{TOY} --seed -1", "seed=-1"),
    ("run amplification --horizons 16 16", "horizons=(16, 16)"),
    (f"{COMPARE} --agents LogLosBC", "Did you mean 'LogLossBC'?"),
    (f"{COMPARE} --agents ChunkedRhoBC(chnk=8)", "Did you mean 'chunk'?"),
    (f"{COMPARE} --agents ChunkedRhoBC", "agent ChunkedRhoBC:"),
    (f"{COMPARE} --agents collections:OrderedDict", "subclass of agents.Agent"),
    (f"{COMPARE} --agents ChunkedRhoBC(chunk=8", "never closed"),
    (f"{COMPARE} --agents ChunkedRhoBC(chunk=8,tau='psi') ChunkedRhoBC(tau='psi',chunk=8)", "twice"),
    (f"{COMPARE} --agents ,", "agents is empty"),
    (f"{COMPARE} --baseline LogLossBC,RhoEstimatorBC", "must be one agent"),
    (f"{COMPARE} --tasks Contaminatoin", "Did you mean 'Contamination'?"),
    (f"{COMPARE} --tasks RareMode(W=3)", "unexpected keyword argument 'W'"),
    (f"{COMPARE} --tasks RareMode(eps=2)", "task RareMode(eps=2) at horizon 16: eps=2"),
    (f"{COMPARE} --tasks ConsistencyGame --horizons 12", "ConsistencyGame at horizon 12"),
    ("evaluate Nope", "unknown task 'Nope'"),
    ("evaluate Snowball LogLosBC", "Did you mean 'LogLossBC'"),
    ("evaluate Contamination(horizon=-1)", "horizon"),
    ("evaluate Contamination --backtrack 1", "no verifier"),
    ("evaluate Contamination --load /no/such/file", "No such file"),
    ("evaluate Contamination LogLossBC --network perceptron(width=3)", "architecture"),
    ("evaluate Contamination LogLossBC --network mlp(widt=3)", "widt"),
    ("evaluate Contamination --save agent", "name one to be fitted"),
    ("evaluate Contamination LogLossBC --save /no/such/folder/agent", "no folder"),
    ("evaluate Contamination LogLossBC --load agent", "brings its own agent"),
    ("evaluate Contamination --trusted my:Agent", "--trusted says how to --load an agent"),
    ("evaluate Contamination --n 1", "n=1"),
    ("evaluate Contamination --confidence 1", "confidence=1"),
    ("evaluate Contamination --confidence 95", "confidence=95"),
    ("evaluate Contamination --nn 1", "--nn"),
    ("distance texts.npz", "there is no such file"),
    ("distance texts.csv", "texts.csv is not a kind of file that is read: .npz, .jsonl, .parquet"),
    ("distance texts.npz --confidence x", "--confidence"),
    ("distance texts.npz --metrix tv", "--metrix"),
    ("distance texts.npz --max-bytes 0", "max_bytes=0"),
]


@pytest.mark.parametrize(("words", "message"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_a_command_is_refused_with_exit_code_2_before_it_writes(capsys, tmp_path, monkeypatch, words, message):
    if "--network" in words:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert message in " ".join(said.replace("│", " ").split()) and "Traceback" not in said
    assert not list(tmp_path.iterdir())
