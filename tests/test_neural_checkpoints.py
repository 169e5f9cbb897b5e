"""What a checkpoint is a checkpoint of: everything that the result depends on."""

import inspect
import pathlib
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents import ConvergenceWarning, CrossValidatedBC, TournamentBC  # noqa: E402
from agents.neural import CheckpointError, NetworkClass, NeuralBC, NeuralClippedRatioBC, NeuralRhoBC  # noqa: E402
from ntp_envs import MarkovPolicy, Task, collect, make_task  # noqa: E402

TASK = make_task("Contamination", horizon=6, eps=0.05, p=0.1, q=0.9)
DEMOS = collect(TASK, 60, np.random.default_rng(0), expert_log_probs=True)
NETWORK = NetworkClass.for_task("linear", TASK, width=2, window=1)

#: for every hyper-parameter another value; of those that follow, one that matters only with others
OTHER = {
    "mode": "mtp_k",
    "k": 3,
    "positions": (1,),
    "steps": 9,
    "batch_size": 7,
    "learning_rate": 0.02,
    "schedule": "constant",
    "warmup": 3,
    "weight_decay": 0.5,
    "clip": 0.01,
    "precision": "bf16",
    "task": TASK,
    "device": "cpu",
    "threads": 2,
    "checkpoint_every": 2,
    "on_step": lambda step, policy: None,
    "on_step_every": 2,
    "progress": lambda step, loss, speed: None,
    "tau": "psi",
    "chunk": 2,
    "rounds": 2,
    "trims": (0.3,),
    "game_steps": 9,
    "game_learning_rate": 0.03,
    "tol": 0.5,
    "beta": 1.5,
    "ratio_steps": 9,
    "ratio_learning_rate": 0.03,
}
LEARNERS = {
    "tf": (NeuralBC, {"steps": 8, "batch_size": 16}),
    "mtp_k": (NeuralBC, {"mode": "mtp_k", "steps": 8, "batch_size": 16}),
    "first_token_only": (NeuralBC, {"mode": "first_token_only", "steps": 8, "batch_size": 16}),
    "constant": (NeuralBC, {"schedule": "constant", "steps": 8, "batch_size": 16}),
    "rho": (NeuralRhoBC, {"rounds": 1, "trims": (0.1,), "steps": 8, "game_steps": 8, "batch_size": 16}),
    "clipped": (NeuralClippedRatioBC, {"trims": (0.1,), "steps": 8, "ratio_steps": 8, "batch_size": 16}),
}
CHANGES = [
    (learner, name)
    for learner, (kind, _) in LEARNERS.items()
    for name in inspect.signature(kind.__init__).parameters
    if name not in ("self", "checkpoint")
]


def fitted(kind, options, seed=0, demos=DEMOS):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kind(**options).fit(demos, NETWORK, rng=np.random.default_rng(seed))


def bits(agent):
    return agent.fit_report_.objective, {name: value.numpy().tobytes() for name, value in agent.policy_.state.items()}


@pytest.mark.parametrize(("learner", "name"), CHANGES)
def test_another_hyper_parameter_is_refused_or_makes_a_fresh_fit(learner, name, tmp_path):
    kind, options = LEARNERS[learner]
    fitted(kind, {**options, "checkpoint": tmp_path})
    changed = {**options, name: OTHER[name]}
    try:
        resumed = fitted(kind, {**changed, "checkpoint": tmp_path})
    except CheckpointError:
        return
    assert bits(resumed) == bits(fitted(kind, changed))


def test_where_nothing_changes_for_the_first_stages_they_are_kept(tmp_path):
    kind, options = LEARNERS["rho"]
    fitted(kind, {**options, "checkpoint": tmp_path})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.pt")}
    fitted(kind, {**options, "rounds": 2, "checkpoint": tmp_path})
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.pt")}
    assert len(after) == len(before) + 2 and before.items() <= after.items()


@pytest.mark.parametrize("learner", LEARNERS)
def test_other_data_or_seeds_are_refused(learner, tmp_path):
    kind, options = LEARNERS[learner]
    options = {**options, "checkpoint": tmp_path}
    fitted(kind, options)
    other = collect(TASK, 60, np.random.default_rng(1), expert_log_probs=True)
    for change in ({"seed": 1}, {"demos": other}):
        with pytest.raises(CheckpointError, match="seed" if "seed" in change else "data"):
            fitted(kind, options, **change)


def test_the_experts_probabilities_are_part_of_the_data(tmp_path):
    kind, options = LEARNERS["clipped"]
    fitted(kind, {**options, "checkpoint": tmp_path})
    other = make_task("Contamination", horizon=6, eps=0.05, p=0.2, q=0.9)
    from dataclasses import replace

    demos = replace(DEMOS, expert_log_probs=other.expert.log_probs(DEMOS.prompts, DEMOS.tokens))
    with pytest.raises(CheckpointError, match="data"):
        fitted(kind, {**options, "checkpoint": tmp_path}, demos=demos)


def test_a_hyper_parameter_that_a_subclass_adds_is_part_of_it_too(tmp_path):
    class Mine(NeuralBC):
        def __init__(self, mode="tf", *, sharpness=1.0, steps=8, checkpoint=None):
            super().__init__(mode, steps=steps, checkpoint=checkpoint)
            self.sharpness = sharpness

    fitted(Mine, {"checkpoint": tmp_path})
    with pytest.raises(CheckpointError, match=r"sharpness: 1.0 there, 2.0 now"):
        fitted(Mine, {"checkpoint": tmp_path, "sharpness": 2.0})


# -- tasks -------------------------------------------------------------------------------------------------------------


def online(task, folder):
    demos = collect(task, 20, np.random.default_rng(0))
    network = NetworkClass.for_task("linear", task, width=4, window=2)
    return NeuralBC(steps=5, task=task, batch_size=8, checkpoint=folder).fit(demos, network)


def test_an_edited_file_is_another_task(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("abcabcab " * 2000)
    task = make_task("Text", corpus=str(book), horizon=8)
    online(task, tmp_path / "run")
    again = make_task("Text", corpus=str(book), horizon=8)
    assert online(again, tmp_path / "run").fit_report_.iterations == 5
    book.write_text("cbacbacb " * 2000)
    with pytest.raises(CheckpointError, match="sha256"):
        online(make_task("Text", corpus=str(book), horizon=8), tmp_path / "run")


class Named(Task):
    """A task whose law is not among its parameters."""

    vocab_size, horizon, prompt_length = 2, 16, 0
    share = 0.5

    def parameters(self):
        return {}

    @property
    def expert(self):
        return MarkovPolicy([[1 - self.share, self.share]], order=0)

    @property
    def policy_class(self):
        raise NotImplementedError

    def prompt_law(self):
        return np.zeros((1, 0), dtype=int), np.ones(1)

    def best_in_class(self):
        raise NotImplementedError


def test_so_is_one_whose_code_has_changed(tmp_path, monkeypatch):
    assert Named().fingerprint() == Named().fingerprint()
    online(Named(), tmp_path)
    monkeypatch.setattr(Named, "share", 0.6)
    with pytest.raises(CheckpointError, match="data"):
        online(Named(), tmp_path)


# -- many fits, one folder ---------------------------------------------------------------------------------------------


def test_cross_validation_gives_every_fit_a_folder_of_its_own(tmp_path):
    grid = {"learning_rate": [1e-3, 1e-1]}
    options = {"steps": 8, "batch_size": 16}
    plain = CrossValidatedBC(NeuralBC(**options), grid, folds=2).fit(DEMOS, NETWORK)
    kept = CrossValidatedBC(NeuralBC(**options, checkpoint=tmp_path), grid, folds=2)
    first = bits_of_choice(kept.fit(DEMOS, NETWORK))
    assert first == bits_of_choice(plain)
    names = sorted(path.parent.name for path in pathlib.Path(tmp_path).rglob("run.pt"))
    assert names == ["candidate-0-fold-0", "candidate-0-fold-1", "candidate-1-fold-0", "candidate-1-fold-1", "chosen"]
    assert bits_of_choice(kept.fit(DEMOS, NETWORK)) == first  # gone on from
    with pytest.raises(ValueError, match=r"CheckpointError: .*candidate-1-fold-0.*another folder"):
        kept.fit(collect(TASK, 60, np.random.default_rng(1)), NETWORK)


def bits_of_choice(agent):
    return agent.best_params_, {name: value.numpy().tobytes() for name, value in agent.policy_.state.items()}


def test_so_does_a_tournament(tmp_path):
    members = [NeuralBC(steps=8, learning_rate=rate, checkpoint=tmp_path) for rate in (1e-3, 1e-1)]
    plain = TournamentBC([NeuralBC(steps=8, learning_rate=rate) for rate in (1e-3, 1e-1)], refit=True)
    kept = TournamentBC(members, refit=True).fit(DEMOS, NETWORK)
    assert kept.tournament_.losses.tolist() == plain.fit(DEMOS, NETWORK).tournament_.losses.tolist()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_step", "progress"])
def test_what_cannot_be_saved_is_named(name, tmp_path):
    agent = fitted(NeuralBC, {"steps": 2, name: lambda *values: None})
    with pytest.raises(ValueError, match=rf"cannot be saved because of {name} .*set_params\({name}=\.\.\.\)"):
        agent.save(tmp_path / "agent.zip")
    agent.set_params(**{name: None if name == "on_step" else False}).save(tmp_path / "agent.zip")
