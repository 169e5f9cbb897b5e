"""Training: the Agent contract, convex optima, modes with known answers, and what a checkpoint is one of."""
# ruff: noqa: E402

import inspect
import pathlib
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

torch = pytest.importorskip("torch")

from agents import Agent, ConvergenceWarning, CrossValidatedBC, LogLossBC, TournamentBC, make_agent
from agents.neural import MODES, CheckpointError, NetworkClass, NeuralBC, NeuralClippedRatioBC, NeuralRhoBC
from agents.neural.agent import _has_stopped_falling
from agents.neural.training import Mode, Objective, OnlineBatches, Run, StoredBatches, Training
from agents.testing import HORIZON, Problem, _draw, check_agent
from ntp_envs import ARLinearClass, Demonstrations, MarkovPolicy, Task, collect, make_task
from ntp_envs.evaluation import evaluate
from ntp_envs.features import WindowOneHot


def problem(architecture, vocab_size, prompt_length, **options):
    spec = NetworkClass(architecture, vocab_size, prompt_length=prompt_length, horizon=HORIZON, **options)
    return Problem(architecture, spec, _draw(spec, prompt_length, np.random.default_rng(0)))


PROBLEMS = [
    problem("linear", 3, 2, width=4),
    problem("mlp", 2, 0, width=4, window=2, positional=True),
    problem("transformer", 3, 2, width=8, heads=2, prompt_group=2, prompt_positions=False, dropout=0.1),
]
TRANSFORMER = PROBLEMS[2]


def fit(given=TRANSFORMER, seed=0, **options):
    options = {"steps": 12, "batch_size": 16, **options}
    return NeuralBC(**options).fit(given.demonstrations, given.policy_class, rng=np.random.default_rng(seed))


def weights(agent):
    return {name: value.numpy().tobytes() for name, value in agent.policy_.state.items()}


# -- the contract ------------------------------------------------------------------------------------------------------


def test_it_keeps_the_contract_of_agents(monkeypatch):
    monkeypatch.delattr(Agent, "_pickled")  # weights are kept as arrays
    check_agent(make_agent("agents.neural:NeuralBC", steps=5, batch_size=16), problems=PROBLEMS)


@pytest.mark.parametrize("mode", MODES[1:])
def test_every_mode_keeps_the_contract(mode, monkeypatch):
    monkeypatch.delattr(Agent, "_pickled")  # weights are kept as arrays
    check_agent(NeuralBC(mode, k=3, steps=4, batch_size=16, warmup=2), problems=PROBLEMS[:1])


def test_the_same_seed_is_the_same_network_whatever_the_global_state():
    one = weights(fit())
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    two = weights(fit(on_step=lambda step, policy: torch.rand(3)))
    assert one == two
    torch.manual_seed(5)
    fit()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert weights(fit(seed=1)) != one


def test_the_number_of_threads_of_the_machine_makes_no_difference():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = weights(fit(batch_size=200))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert weights(fit(batch_size=200)) == two
    finally:
        torch.set_num_threads(before)


# -- optima that are known ---------------------------------------------------------------------------------------------


def test_a_linear_network_reaches_the_convex_maximum_likelihood(rng):
    tokens = MarkovPolicy([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], order=1).sample(np.zeros((300, 0), int), 6, rng)
    demos = Demonstrations(np.zeros((300, 0), int), tokens, vocab_size=2)
    convex = LogLossBC().fit(demos, ARLinearClass(WindowOneHot(2, 2), radius=100.0)).fit_report_.objective
    spec = NetworkClass("linear", 2, prompt_length=0, horizon=6, window=2, width=2)
    agent = NeuralBC(steps=400, batch_size=None, learning_rate=0.05).fit(demos, spec)
    assert -1e-7 <= agent.fit_report_.objective - convex < 1e-5
    assert agent.fit_report_.details["gradient_norm"] < 1e-3


def copying():
    """A fair coin, then its copy, then a coin of bias 3/4; the population, as weights."""
    rows = np.array([(a, a, b) for a in (0, 1) for b in (0, 1)])
    return Demonstrations(np.zeros((4, 0), int), rows, vocab_size=2, weights=np.array([1.0, 3.0, 1.0, 3.0]))


@pytest.mark.parametrize(
    ("mode", "options", "law"),
    [
        ("tf", {}, [[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]),  # after a first 0
        ("mtp_k", {"k": 3}, [[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]]),
        ("teacherless", {}, [[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]]),
        ("first_token_only", {"positions": (1, 0)}, [[0.5, 0.5], [1.0, 0.0]]),
        ("first_token_only", {"positions": [2]}, [None, None, [0.25, 0.75]]),
    ],
)
@pytest.mark.parametrize("architecture", ["mlp", "transformer"])
def test_each_mode_learns_the_law_it_can(architecture, mode, options, law):
    spec = NetworkClass(architecture, 2, prompt_length=0, horizon=3, width=16, layers=1)
    agent = NeuralBC(mode, steps=150, learning_rate=0.02, **options).fit(copying(), spec)
    found = np.exp(agent.policy_.forced_log_probs(np.zeros((1, 0), int), np.array([[0, 0, 1]])))[0]
    columns = [h for h, wanted in enumerate(law) if wanted is not None]
    np.testing.assert_allclose(found[columns], [law[h] for h in columns], atol=0.02)
    entropy = -sum(p * np.log(p) for h in columns for p in law[h] if p > 0)
    assert agent.fit_report_.objective == pytest.approx(entropy, abs=0.02)
    assert agent.fit_report_.details["positions"] == columns


def test_positions_without_a_loss_are_not_trained_on():
    given = PROBLEMS[1]
    later = given.demonstrations.tokens.copy()
    later[:, 3:] = 1 - later[:, 3:]
    other = Problem("", given.policy_class, Demonstrations(given.demonstrations.prompts, later, vocab_size=2))
    only = {"mode": "first_token_only", "positions": (2, 1), "batch_size": None}
    assert difference(fit(given, **only), fit(other, **only)) < 1e-5  # rows come in another order
    assert difference(fit(given, batch_size=None), fit(other, batch_size=None)) > 1e-3


def difference(one, two):
    return max(float((one.policy_.state[name] - two.policy_.state[name]).abs().max()) for name in one.policy_.state)


def test_one_head_is_teacher_forcing():
    assert weights(fit(mode="mtp_k", k=1)) == weights(fit())
    assert weights(fit(mode="mtp_k", k=2)) != weights(fit())


def test_the_loss_of_several_heads_written_out(rng):
    spec, demos = PROBLEMS[0].policy_class, PROBLEMS[0].demonstrations
    objective = Objective(spec.initialised(torch.Generator().manual_seed(1)), Mode("mtp_k", HORIZON, k=3))
    with torch.no_grad():
        objective.ahead.normal_(generator=torch.Generator().manual_seed(2))
    p = rng.dirichlet(np.ones(len(demos)))
    batch = [torch.tensor(array) for array in (demos.prompts, demos.tokens, p.astype(np.float32))]
    with torch.no_grad():
        loss, first = (float(value) for value in objective(*batch))
        hidden = objective.network(batch[0], batch[1][:, :-1]).numpy()
    logits = [hidden @ objective.network.out.weight.detach().numpy().T + objective.network.out.bias.detach().numpy()]
    logits += [hidden @ head for head in objective.ahead.detach().numpy()]
    by_head = [
        -sum(
            p[i] * log_softmax(logits[j][i, h])[demos.tokens[i, h + j]]
            for i in range(len(demos))
            for h in range(HORIZON - j)
        )
        for j in range(3)
    ]
    assert first == pytest.approx(by_head[0], rel=1e-5)
    assert loss == pytest.approx(sum(by_head) / HORIZON, rel=1e-5)


@pytest.mark.parametrize("mode", ["tf", "teacherless"])
@pytest.mark.parametrize("given", PROBLEMS[:2], ids=lambda given: given.name)
def test_the_loss_that_is_trained_on_is_that_of_the_policy(given, mode):
    """The loss reported for a step is the log-loss of the weights before it."""
    kept = {}
    agent = fit(given, mode=mode, batch_size=None, steps=4, on_step=kept.__setitem__)
    curve = dict(agent.fit_report_.details["loss_curve"])
    demos = given.demonstrations
    for step in (1, 2, 3):
        expected = -kept[step].log_probs(demos.prompts, demos.tokens).sum(axis=1).mean()
        assert curve[step + 1] == pytest.approx(expected, rel=1e-5)
    assert agent.fit_report_.objective == pytest.approx(
        -agent.policy_.log_probs(demos.prompts, demos.tokens).sum(axis=1).mean(), rel=1e-12
    )


# -- batches -----------------------------------------------------------------------------------------------------------


def test_batches_follow_the_weights(rng):
    tokens = np.array([[0], [1], [2], [1]])
    demos = Demonstrations(np.zeros((4, 0), int), tokens, vocab_size=4, weights=np.array([1.0, 2.0, 0.0, 5.0]))
    batches = StoredBatches(demos, 1)
    drawn = np.concatenate([batches.draw(rng)[1] for _ in range(4000)])
    shares = np.bincount(drawn[:, 0], minlength=4) / 4000
    assert shares[2] == shares[3] == 0
    assert abs(shares[0] - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 4000)
    for size in (None, 2, 100):
        _, tokens, share = StoredBatches(demos, size).draw(rng)
        assert tokens.tolist() == [[0], [1]] and share.tolist() == [1 / 8, 7 / 8]


def test_online_data_is_new_at_every_step(rng):
    task = make_task("PathStar")
    batches = OnlineBatches(task, 50)
    (one, answers, none), (two, _, _) = batches.draw(rng), batches.draw(rng)
    assert none is None and not (one == two).all(axis=1).any()
    np.testing.assert_array_equal(answers, task.targets(one))


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_schedules():
    """The cosine would reach zero one step after the last; before it, a line of warm-up."""
    assert [Training(steps=110, learning_rate=2.0, warmup=10).learning_rate_at(step) for step in (0, 4, 9)] == (
        pytest.approx([0.2, 1.0, 2.0])
    )
    for steps, warmup in ((1, 0), (2, 0), (10, 0), (100, 0), (100, 20), (110, 10)):
        training = Training(steps=steps, learning_rate=1.0, warmup=warmup)
        rates = [training.learning_rate_at(step) for step in range(warmup, steps + 1)]
        assert rates == pytest.approx(np.cos(np.linspace(0, np.pi / 2, len(rates))) ** 2, abs=1e-12)
        assert rates[-2] > 0.0002 and rates[-1] == pytest.approx(0, abs=1e-12)
    constant = Training(steps=10, learning_rate=2.0, schedule="constant")
    assert {constant.learning_rate_at(step) for step in range(10)} == {2.0}


def test_the_first_update_is_that_of_adamw():
    """Adam's first step is -lr g / (|g| + eps), after decay by lr times the weight; clipping scales g."""
    spec, demos = PROBLEMS[0].policy_class, PROBLEMS[0].demonstrations
    training = Training(steps=1, learning_rate=0.1, schedule="constant", weight_decay=0.5, clip=1e-7, device="cpu")
    training = training.checked()
    network = spec.initialised(torch.Generator().manual_seed(0))
    run = Run.begin(Objective(network, Mode("tf", HORIZON)), training, (0, 0))
    before = network.out.weight.detach().double().numpy().copy()
    run.update(StoredBatches(demos, None), training)
    gradient = network.out.weight.grad.double().numpy()  # after clipping
    norm = np.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in network.parameters()))
    assert norm == pytest.approx(1e-7, rel=1e-4) and run.gradient_norms[0] > 1e-3
    expected = before * (1 - 0.1 * 0.5) - 0.1 * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(network.out.weight.detach().numpy(), expected, atol=1e-5)


def test_plateaus(rng):
    flat = rng.normal(size=1000)
    assert _has_stopped_falling(flat)
    assert not _has_stopped_falling(flat - 0.01 * np.arange(1000))
    assert not _has_stopped_falling(flat[:90])  # too few to tell
    assert not fit().fit_report_.converged and np.isnan(fit().fit_report_.gap)


def test_progress(capsys):
    seen = []
    fit(steps=3, progress=lambda *report: seen.append(report))
    assert [step for step, _, _ in seen] == [1, 2, 3]
    assert all(loss > 0 and speed > 0 for _, loss, speed in seen)
    assert capsys.readouterr() == ("", "")
    fit(steps=3, progress=True)
    out, err = capsys.readouterr()
    assert not out and "3/3" in err and "nats a sequence" in err


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_at(stop):
    def on_step(step, policy):
        if step == stop:
            raise Stop

    return on_step


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 8},  # dropout and drawn batches: both generators go on
        {"mode": "mtp_k", "k": 3, "warmup": 4, "weight_decay": 0.1},
        {"mode": "teacherless", "schedule": "constant", "batch_size": None},
    ],
    ids=["tf", "mtp_k", "teacherless"],
)
@pytest.mark.parametrize("stop", [3, 4, 9, 12])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, options, stop):
    whole = fit(**options)
    kept = {"checkpoint": tmp_path / "new" / "run", "checkpoint_every": 4, **options}
    with pytest.raises(Stop):
        fit(on_step=stop_at(stop), **kept)
    steps = []
    resumed = fit(on_step=lambda step, policy: steps.append(step), **kept)
    assert steps == list(range(stop // 4 * 4 + 1, 13))
    assert weights(resumed) == weights(whole)
    assert resumed.fit_report_ == whole.fit_report_ or repr(resumed.fit_report_) == repr(whole.fit_report_)
    assert weights(fit(**kept)) == weights(whole)  # nothing left to do
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["run.pt"]


def test_online_runs_resume_too(tmp_path):
    task = make_task("PathStar")
    spec = NetworkClass.for_task("transformer", task, width=8, layers=1)
    given = Problem("", spec, collect(task, 10, np.random.default_rng(0)))
    options = {"task": task, "steps": 6, "batch_size": 4}
    whole = fit(given, **options)
    with pytest.raises(Stop):
        fit(given, on_step=stop_at(5), checkpoint=tmp_path, checkpoint_every=2, **options)
    assert weights(fit(given, checkpoint=tmp_path, checkpoint_every=2, **options)) == weights(whole)


def test_a_constant_schedule_can_be_prolonged(tmp_path):
    fit(steps=5, schedule="constant", checkpoint=tmp_path)
    longer = fit(steps=9, schedule="constant", checkpoint=tmp_path)
    assert weights(longer) == weights(fit(steps=9, schedule="constant"))
    with pytest.raises(ValueError, match="has done 9 steps"):
        fit(steps=5, schedule="constant", checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.5}, "learning_rate: 0.001 there, 0.5 now"),
        ({"steps": 13}, "steps: 12 there, 13 now"),
        ({"seed": 1}, "seeds"),
        ({"mode": "teacherless"}, "mode"),
        ({"batch_size": 7}, "data"),
        ({"given": PROBLEMS[0]}, "network"),
    ],
)
def test_checkpoints_of_other_runs_are_refused(tmp_path, change, named):
    fit(checkpoint=tmp_path)
    before = (tmp_path / "run.pt").read_bytes()
    with pytest.raises(ValueError, match=rf"run with other settings \(.*{named}"):
        fit(checkpoint=tmp_path, **change)
    assert (tmp_path / "run.pt").read_bytes() == before


def test_damaged_checkpoints_are_refused(tmp_path):
    fit(checkpoint=tmp_path)
    path = tmp_path / "run.pt"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"hello", content[:1000] + b"\0" * 500 + content[1500:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a readable checkpoint"):
            fit(checkpoint=tmp_path)
    torch.save({"format": "cake recipe"}, path)
    with pytest.raises(ValueError, match="it holds 'cake recipe'"):
        fit(checkpoint=tmp_path)


# -- planning ----------------------------------------------------------------------------------------------------------


def path_star(steps, mode="tf", **options):
    task = make_task("PathStar", degree=2, length=5, nodes=20, **options)
    spec = NetworkClass.for_task("transformer", task, layers=3, prompt_group=3, prompt_positions=False)
    fresh = collect(task, 1000, np.random.default_rng(1))
    agent = NeuralBC(mode, steps=steps, batch_size=64, learning_rate=2e-3, schedule="constant", task=task)
    agent.fit(fresh, spec, rng=np.random.default_rng(0))
    return evaluate(agent.policy_, task, n=1000, rng=np.random.default_rng(2), demonstrations=fresh)


def test_a_reversed_path_is_learned_in_a_hundred_steps():
    found = path_star(100, reverse=True)
    assert found.forced_exact > 0.98 and found.greedy_exact > 0.98


@pytest.mark.slow
def test_teacher_forcing_learns_to_copy_and_guesses_the_turn():
    """The numbers of the cheater: every token but the second, which is one of two; so half of the answers."""
    found = path_star(240)
    assert found.forced_accuracy[[0, 2, 3, 4]].min() > 0.98
    assert abs(found.forced_accuracy[1] - 0.5) < 4 * np.sqrt(0.25 / 1000)
    assert abs(found.greedy_exact - 0.5) < 4 * np.sqrt(0.25 / 1000) + 0.02


# == what a checkpoint depends on ======================================================================================


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
    return agent.fit_report_.objective, weights(agent)


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
    return agent.best_params_, weights(agent)


def test_so_does_a_tournament(tmp_path):
    members = [NeuralBC(steps=8, learning_rate=rate, checkpoint=tmp_path) for rate in (1e-3, 1e-1)]
    plain = TournamentBC([NeuralBC(steps=8, learning_rate=rate) for rate in (1e-3, 1e-1)], refit=True)
    kept = TournamentBC(members, refit=True).fit(DEMOS, NETWORK)
    assert kept.tournament_.losses.tolist() == plain.fit(DEMOS, NETWORK).tournament_.losses.tolist()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_step", "progress"])
def test_what_cannot_be_saved_is_named(name, tmp_path):
    agent = fitted(NeuralBC, {"steps": 2, name: lambda *values: None})
    with pytest.raises(ValueError, match=rf"cannot be saved: {name} is <function .*set_params\({name}=\.\.\.\)"):
        agent.save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=rf"cannot be saved because of {name} .*set_params\({name}=\.\.\.\)"):
        agent.save(tmp_path / "agent.zip", allow_pickle=True)
    assert not (tmp_path / "agent.zip").exists()
    agent.set_params(**{name: None if name == "on_step" else False}).save(tmp_path / "agent.zip")
