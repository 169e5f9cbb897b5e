"""The Agent contract: the conformance checks on our agents, and on agents that break each of its rules."""

import zipfile

import numpy as np
import pytest

from agents import (
    AdversarialImitation,
    Agent,
    BestInClass,
    ChunkedRhoBC,
    ChunkKR,
    ClippedRatioBC,
    CrossValidatedBC,
    DAgger,
    FitReport,
    ForwardTraining,
    JSDPlusTVBC,
    LayerwiseBC,
    LogLossBC,
    NotFittedError,
    PerceptronBC,
    RhoEstimatorBC,
    ScheduledSampling,
    SmoothedLogLossBC,
    TaiLrBC,
    TotalVariationBC,
    TournamentBC,
    make_agent,
)
from agents.base import unfitted
from agents.registry import BUILT_IN, agent_class
from agents.testing import CHECKS, Problem, check_agent, default_problems
from ntp_envs import (
    BernoulliClass,
    BernoulliPolicy,
    CallablePolicy,
    Demonstrations,
    FiniteClass,
    NotTractableError,
    UniformPolicy,
    collect,
    make_task,
)
from ntp_envs.tasks import ConsistencyGame, PathStar

AGENTS = [
    LogLossBC(),
    SmoothedLogLossBC(),
    SmoothedLogLossBC("1/(nH)"),
    SmoothedLogLossBC(0.3),
    LayerwiseBC(),
    LayerwiseBC(tie_break="random"),
]


@pytest.mark.parametrize("agent", AGENTS, ids=repr)
def test_our_agents_conform(agent):
    check_agent(agent, rng=np.random.default_rng(7))


#: on every class that they take
WIDELY = [
    pytest.param(RhoEstimatorBC(), marks=pytest.mark.slow),
    pytest.param(ChunkedRhoBC(4, "psi"), marks=pytest.mark.slow),
    PerceptronBC(max_epochs=20),
    PerceptronBC(averaged=False, shuffle=False, max_epochs=20),
    TaiLrBC(0.01),
    pytest.param(TaiLrBC(1.0), marks=pytest.mark.slow),
    TotalVariationBC(samples=50),
    TotalVariationBC("tournament", samples=50),
    ScheduledSampling(rounds=2),
    AdversarialImitation(rounds=2, rollouts=20, settle=1),
    TournamentBC({"layers": LayerwiseBC(tie_break="random"), "plain": LogLossBC()}, "psi", holdout=0.25, refit=True),
    pytest.param(TournamentBC((TournamentBC([LogLossBC()]), SmoothedLogLossBC())), marks=pytest.mark.slow),
    CrossValidatedBC(LayerwiseBC(), {"tie_break": ["random", "first"]}, "rho", 2, tau="psi", error_score="raise"),
    pytest.param(
        CrossValidatedBC(
            TournamentBC({"a": LogLossBC(), "b": SmoothedLogLossBC()}), {"agents__b__lam": [0.2]}, folds=2
        ),
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("agent", WIDELY, ids=repr)
@pytest.mark.filterwarnings("ignore::agents.ConvergenceWarning")
def test_they_conform_on_every_class(agent):
    drawn = {"weights"} if isinstance(agent, AdversarialImitation) else ()  # anew for each copy of a demonstration
    check_agent(agent, skip=SKIP.get(type(agent).__name__, drawn))


#: how to make a learner of the list that has no defaults, or what of the suite is not for it
TASK = make_task("Contamination", horizon=4, eps=0.1, p=0.2, q=0.8, theta_min=0.05)
NEEDS = {
    "BestInClass": {"task": TASK},
    "ChunkedRhoBC": {"chunk": 2},
    "CrossValidatedBC": {"agent": SmoothedLogLossBC(), "grid": {"lam": [0.1, 0.3]}},
    "DAgger": {"task": TASK},
    "ForwardTraining": {"task": TASK},
    "NGramDialBC": {"agent": LogLossBC()},
    "OnPolicyDistillation": {"task": TASK},
    "TournamentBC": {"agents": [LogLossBC(), SmoothedLogLossBC(0.3)]},
}
#: a split draws demonstrations, so copies are not weights; and one demonstration cannot be split
SKIP = {name: {"weights", "small data"} for name in ("CrossValidatedBC", "NGramDialBC", "TournamentBC")}
SKIP |= {name: {"weights"} for name in ("ChunkKR", "ScheduledSampling")}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_learner_of_the_list_conforms(name, monkeypatch):
    """On one small problem, and saved without a pickle; what each does on each class is in the file on its chapter."""
    monkeypatch.delattr(Agent, "_pickled")
    agent = agent_class(name)(**NEEDS.get(name, {}))
    on_task = agent.takes(TASK.policy_class)
    problem = task_problem(TASK) if on_task else default_problems(agent)[0]
    check_agent(agent, problems=[problem], skip=SKIP.get(name, ()))


def task_problem(task):
    return Problem(task.name, task.policy_class, collect(task, 20, np.random.default_rng(0), expert_log_probs=True))


@pytest.mark.parametrize("name", ["Contamination", "RareMode", "ConsistencyGame"])
def test_the_oracle_conforms_on_its_own_task(name):
    task = make_task(name, horizon=8)
    check_agent(BestInClass(task), problems=[task_problem(task)])


# -- agents that break one rule each -----------------------------------------------------------------------------------


class Fair(Agent):
    """A correct agent that ignores the data."""

    def __init__(self, *, option=None):
        self.option = option

    def _fit(self, demonstrations, policy_class, rng):
        return UniformPolicy(demonstrations.vocab_size), FitReport(0.0, 0.0)


class ConvertsParameter(Fair):
    def __init__(self, *, option=(1, 2)):
        self.option = list(option)


class ExtraAttribute(Fair):
    def __init__(self, *, option=None):
        self.option, self.cache = option, {}


class ReturnsNothing(Fair):
    def fit(self, demonstrations, policy_class, *, rng=None):
        super().fit(demonstrations, policy_class, rng=rng)


class BadName(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        self.learned = 1
        return super()._fit(demonstrations, policy_class, rng)


class WrongVocabulary(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        return UniformPolicy(demonstrations.vocab_size + 1), FitReport(0.0, 0.0)


class Unnormalised(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        size = demonstrations.vocab_size
        policy = CallablePolicy(lambda prompts, tokens: np.full((len(tokens), size), -1.2), size)
        policy._checked = True
        return policy, FitReport(0.0, 0.0)


class Backwards(UniformPolicy):
    def log_probs(self, prompts, tokens):
        return super().log_probs(prompts, tokens) + np.arange(tokens.shape[1])


class WrongLogProbs(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        return Backwards(demonstrations.vocab_size), FitReport(0.0, 0.0)


class Mutates(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        demonstrations.tokens.flags.writeable = True
        demonstrations.tokens[0] = 1 - demonstrations.tokens[0]
        return super()._fit(demonstrations, policy_class, rng)


class Resolves(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        self.option = len(demonstrations)
        return super()._fit(demonstrations, policy_class, rng)


class Random(Fair):
    """Draws its answer; from where is for subclasses to get wrong."""

    def draw(self, rng):
        return rng.random()

    def _fit(self, demonstrations, policy_class, rng):
        return BernoulliPolicy(float(self.draw(rng))), FitReport(0.0, 0.0)


class GlobalState(Random):
    def draw(self, rng):
        np.random.seed(0)  # noqa: NPY002
        return np.random.random()  # noqa: NPY002


class FreshEntropy(Random):
    def draw(self, rng):
        return np.random.default_rng().random()


class Accumulates(Agent):
    """Adds every data set to what it has seen."""

    def __init__(self):
        pass

    def fit(self, demonstrations, policy_class, *, rng=None):
        seen = [*vars(self).get("seen_", []), demonstrations.tokens]
        super().fit(demonstrations, policy_class, rng=rng)
        self.seen_ = seen
        self.policy_ = BernoulliPolicy(float(np.mean(np.concatenate(seen))))
        return self

    def _fit(self, demonstrations, policy_class, rng):
        return UniformPolicy(2), FitReport(0.0, 0.0)


class IgnoresWeights(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        return BernoulliPolicy(float(demonstrations.tokens.mean())), FitReport(0.0, 0.0)


class CannotPickle(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        policy = UniformPolicy(demonstrations.vocab_size)
        policy.hook = lambda: None
        return policy, FitReport(0.0, 0.0)


class Lax(Fair):
    def _check_fit_input(self, demonstrations, policy_class):
        pass


class LazyAboutPopulations(Fair):
    def _check_fit_input(self, demonstrations, policy_class):
        from dataclasses import replace

        if isinstance(demonstrations, Demonstrations):
            demonstrations = replace(demonstrations, exactness=None)
        super()._check_fit_input(demonstrations, policy_class)


class NeedsTwo(Fair):
    def _fit(self, demonstrations, policy_class, rng):
        spread = demonstrations.tokens.std(axis=0).sum() + (len(demonstrations) > 11)
        with np.errstate(invalid="ignore"):
            theta = np.divide(0.5 * spread, spread)
        return BernoulliPolicy(theta), FitReport(0.0, 0.0)


BROKEN = [
    (ConvertsParameter, "parameters", "must store option as given"),
    (ExtraAttribute, "parameters", "sets .'cache'., which are not parameters"),
    (ReturnsNothing, "fit", "fit must return self"),
    (BadName, "fit", "sets .'learned'.; names of learned state"),
    (WrongVocabulary, "policy", "has 3 tokens, not 2"),
    (Unnormalised, "policy", "not normalised"),
    (WrongLogProbs, "policy", "log_probs of .* disagrees"),
    (Mutates, "purity", "changes demonstrations.tokens"),
    (Resolves, "purity", "changes a hyper-parameter"),
    (GlobalState, "purity", "global random state"),
    (FreshEntropy, "refit", "same seed must agree"),
    (Accumulates, "refit", "refitting must equal a fresh fit"),
    (IgnoresWeights, "weights", "a weight of k must count as k copies"),
    (CannotPickle, "files", "cannot be saved"),
    (Lax, "refusals", "an array for demonstrations must raise TypeError"),
    (LazyAboutPopulations, "refusals", "population that is not exact"),
    (NeedsTwo, "small data", "could not be fitted on Bern"),
]


@pytest.mark.parametrize(("kind", "check", "message"), BROKEN, ids=[kind.__name__ for kind, *_ in BROKEN])
def test_broken_agents_are_caught(kind, check, message):
    problems = [problem for problem in default_problems(kind()) if problem.name.startswith("Bernoulli class on tokens")]
    with pytest.raises(AssertionError, match=message):
        check_agent(kind(), problems=problems, skip=set(CHECKS) - {check})


def test_the_correct_form_of_the_broken_agents_passes():
    check_agent(Fair())
    check_agent(Random(), problems=default_problems(Random())[2:4])


# -- the base class ----------------------------------------------------------------------------------------------------


def test_not_fitted_is_an_attribute_error_and_other_names_stay_plain():
    agent = LogLossBC()
    with pytest.raises(NotFittedError, match="LogLossBC has no policy_ before fit"):
        _ = agent.policy_
    assert not hasattr(agent, "policy_")
    with pytest.raises(AttributeError, match="no attribute 'polcy'") as error:
        _ = agent.polcy
    assert not isinstance(error.value, NotFittedError)


def test_a_failed_refit_leaves_nothing_learned():
    demos = Demonstrations(np.zeros((2, 0), int), np.zeros((2, 3), int), vocab_size=2)
    agent = SmoothedLogLossBC().fit(demos, BernoulliClass())
    agent.set_params(lam=2.0)
    with pytest.raises(ValueError, match="lam"):
        agent.fit(demos, BernoulliClass())
    assert not hasattr(agent, "policy_")


def test_set_params_is_all_or_nothing():
    agent = SmoothedLogLossBC()
    with pytest.raises(ValueError, match=r"no parameter 'lma'.* Did you mean 'lam'"):
        agent.set_params(lam=0.1, lma=0.2)
    with pytest.raises(ValueError, match=r"no parameter 'lma'.* has no parameter 'lmb'.*Known: lam"):
        agent.set_params(lma=0.1, lmb=0.2)
    assert agent.lam == "1/H"
    assert repr(agent.set_params(lam=0.1)) == "SmoothedLogLossBC(lam=0.1)"


def test_fit_does_not_write_into_the_members_of_the_class():
    member = BernoulliPolicy(0.5)
    demos = Demonstrations(np.zeros((2, 3), int), np.zeros((2, 3), int), vocab_size=2)
    assert LogLossBC().fit(demos, FiniteClass([member])).policy_.prompt_length == 3
    assert member.prompt_length is None


def test_an_agent_without_parameters():
    class Plain(Agent):
        def _fit(self, demonstrations, policy_class, rng):
            return UniformPolicy(2), FitReport(0.0, 0.0)

    assert Plain().get_params() == {} and repr(Plain().clone()) == "Plain()"


def test_a_file_of_something_else_is_refused(tmp_path):
    import zipfile

    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("format", "cake recipe 1")
    with pytest.raises(ValueError, match="it is not an agent"):
        LogLossBC.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("format", Agent.FORMAT)
        archive.writestr("agent.pickle", b"cno_such_module\nThing\n.")
    with pytest.raises(ValueError, match=r"holds a pickle, .* load\(path, allow_pickle=True\), and save"):
        LogLossBC.load(path)
    with pytest.raises(ValueError, match=r"no_such_module.*another version of ntp-envs"):
        LogLossBC.load(path, allow_pickle=True)


def test_pooling_keeps_the_data():
    rng = np.random.default_rng(0)
    demos = Demonstrations(
        rng.integers(2, size=(50, 1)), rng.integers(2, size=(50, 2)), vocab_size=2, weights=rng.integers(3, size=50)
    )
    pooled = demos.pooled()
    assert len(pooled) == len({(*p, *t) for p, t in zip(demos.prompts.tolist(), demos.tokens.tolist())})
    for prompt, tokens, weight in zip(pooled.prompts, pooled.tokens, pooled.weights):
        same = (demos.prompts == prompt).all(axis=1) & (demos.tokens == tokens).all(axis=1)
        assert weight == demos.weights[same].sum()
    task = make_task("Contamination", horizon=4)
    assert task.population().pooled().exactness == task.population().exactness


# -- the oracle --------------------------------------------------------------------------------------------------------


def test_the_oracle_returns_the_best_in_class_whatever_the_data():
    task = make_task("Contamination", horizon=16)
    for demos in (task.population(), task.population(chunk=4), collect(task, 1, np.random.default_rng(0))):
        agent = BestInClass(task).fit(demos, task.policy_class)
        assert agent.policy_.theta == task.best_in_class().policy.theta
        assert agent.fit_report_.objective == task.best_in_class().hellinger2


# == agents of agents ==================================================================================================


def test_nested_parameters_have_names():
    agent = CrossValidatedBC(TournamentBC({"b": SmoothedLogLossBC(0.1)}), {"agents__b__lam": [0.1]})
    assert agent.get_params()["agent__agents__b__lam"] == 0.1
    assert "agent__holdout" not in agent.get_params(deep=False)
    clone = agent.clone().set_params(agent__agents__b__lam=0.3, folds=7)
    assert (clone.agent.agents["b"].lam, clone.folds, agent.agent.agents["b"].lam) == (0.3, 7, 0.1)
    replaced = agent.clone().set_params(agent__lam=0.4, agent=SmoothedLogLossBC())
    assert replaced.agent.lam == 0.4
    with pytest.raises(ValueError, match=r"SmoothedLogLossBC has no parameter 'lamb'. Did you mean 'lam'"):
        replaced.set_params(agent__lamb=1)
    with pytest.raises(ValueError, match=r"no parameter 'lamb'.*no parameter 'xi'"):
        replaced.set_params(agent__lamb=1, agent__xi=2)
    with pytest.raises(ValueError, match=r"CrossValidatedBC has no parameter 'agnt__lam'. Did you mean 'agent'"):
        replaced.set_params(agnt__lam=1)


class Sharing(CrossValidatedBC):
    """Its clones share the nested agent."""

    def clone(self):
        return type(self)(**self.get_params(deep=False))


def test_check_agent_finds_clones_that_share_agents():
    with pytest.raises(AssertionError, match=r"Sharing.clone must clone the agents among its parameters, \['agent'\]"):
        check_agent(Sharing(SmoothedLogLossBC(), {"lam": [0.1]}))


def test_cloning_leaves_what_holds_no_agents_alone():
    agent = LogLossBC()
    for value in ([1, 2], (3,), {"a": [1]}, np.arange(3), "text", None):
        assert unfitted(value) is value
    for value in ([agent], (agent, 1), {"a": {"b": [agent]}}):
        copy = unfitted(value)
        assert type(copy) is type(value) and copy is not value and repr(copy) == repr(value)
    assert unfitted(value)["a"]["b"][0] is not agent


def test_members_of_lists_have_their_index_in_the_name():
    agent = TournamentBC([LogLossBC(), SmoothedLogLossBC(0.1)])
    assert agent.get_params()["agents__1__lam"] == 0.1
    agent.set_params(agents__1__lam=0.2, agents__0__tol=1.0)
    assert repr(agent) == "TournamentBC(agents=[LogLossBC(tol=1.0), SmoothedLogLossBC(lam=0.2)])"
    with pytest.raises(ValueError, match="no parameter 'agents__2__lam'"):
        agent.set_params(agents__2__lam=1)


def test_the_longest_name_that_fits_is_meant():
    agent = TournamentBC({"a": TournamentBC([LogLossBC()]), "a__agents__0": SmoothedLogLossBC()})
    agent.set_params(agents__a__agents__0__lam=0.5)
    assert agent.agents["a__agents__0"].lam == 0.5


def test_an_agent_of_another_version_is_refused_with_what_to_do(tmp_path, monkeypatch):
    """It names modules that have moved since."""
    task = make_task("Contamination", horizon=4)
    agent = LogLossBC().fit(collect(task, 20, np.random.default_rng(0)), task.policy_class)
    agent.save(tmp_path / "old.agent")
    with zipfile.ZipFile(tmp_path / "old.agent") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "old.agent", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b"agents.log_loss", b"agents.old_name"))
    with pytest.raises(ValueError, match=r"agents\.old_name.*another version of ntp-envs .* fit the agent again"):
        LogLossBC.load(tmp_path / "old.agent")


# -- old names, for one release ----------------------------------------------------------------------------------------


def test_an_old_hyper_parameter_is_the_new_one(tmp_path):
    task = make_task("Tightrope", horizon=4)
    with pytest.deprecated_call(match=r"DAgger\(labels=...\) is now targets") as caught:
        agents = [DAgger(task, labels="sampled"), make_agent("DAgger", task=task, labels="sampled")]
    assert caught[0].filename == __file__
    with pytest.deprecated_call(match=r"\(labels=...\) is now targets") as caught:
        agents += [
            DAgger(task).set_params(labels="sampled"),
            TournamentBC([DAgger(task)]).set_params(agents__0__labels="sampled").agents[0],
        ]
    assert caught[0].filename == __file__
    with pytest.deprecated_call(match="DAgger.labels is now targets") as caught:
        agents.append(DAgger(task))
        agents[-1].labels = "sampled"
        assert agents[-1].labels == "sampled"
    assert {record.filename for record in caught} == {__file__}
    assert {repr(agent) for agent in agents} == {repr(DAgger(task, targets="sampled"))}
    with pytest.raises(TypeError, match="labels and targets"), pytest.deprecated_call():
        DAgger(task, labels="soft", targets="soft")
    with pytest.deprecated_call(match="labels"):
        grid = CrossValidatedBC(ForwardTraining(task, rollouts=5), {"labels": ["soft", "sampled"]}, folds=2)
        grid.fit(collect(task, 4, np.random.default_rng(0)), task.policy_class)
    assert [row["labels"] for row in grid.cv_results_["params"]] == ["soft", "sampled"]


def test_a_file_from_before_a_hyper_parameter_was_renamed_loads(tmp_path):
    agent = DAgger(make_task("Tightrope", horizon=4), targets="sampled")
    state = vars(agent)
    state["labels"] = state.pop("targets")  # as it was written
    loaded = Agent.load(agent.save(tmp_path / "old"))
    assert loaded.targets == "sampled" and "labels" not in vars(loaded)


def test_a_subclass_may_keep_an_old_name_as_its_own():
    class Louder(DAgger):
        def __init__(self, task, labels="sampled"):
            with pytest.deprecated_call(match="labels"):
                super().__init__(task, labels=labels)

    with pytest.deprecated_call(match="Louder.labels is now targets"):
        agent = Louder(make_task("Tightrope", horizon=4)).set_params(labels="soft")
        assert agent.get_params(deep=False)["labels"] == agent.targets == "soft"


def test_unit_is_the_chunk_length():
    data = collect(make_task("Tightrope", horizon=4), 3, np.random.default_rng(0))
    with pytest.deprecated_call(match=".unit is now chunk_length") as caught:
        assert [agent.unit(data) for agent in (LogLossBC(), RhoEstimatorBC(), LayerwiseBC())] == [1, 4, None]
    assert {record.filename for record in caught} == {__file__}
    with pytest.deprecated_call(match="Halves.unit is now chunk_length") as caught:

        class Halves(RhoEstimatorBC):
            def unit(self, demonstrations):
                return super().unit(demonstrations) // 2

    assert caught[0].filename == __file__
    with pytest.deprecated_call(match="unit"):
        assert Halves().chunk_length(data) == Halves().unit(data) == 2

    class Quarters(Halves):
        def chunk_length(self, demonstrations):
            return super().chunk_length(demonstrations) // 2

    with pytest.deprecated_call(match="unit"):
        assert Quarters().chunk_length(data) == Quarters().unit(data) == 1


@pytest.mark.parametrize(
    ("agent", "task"),
    [
        (ClippedRatioBC(), ConsistencyGame(horizon=4)),
        (JSDPlusTVBC(), ConsistencyGame(horizon=4)),
        (ChunkKR(chunk=2), PathStar(degree=2, length=2)),
    ],
    ids=["ClippedRatioBC", "JSDPlusTVBC", "ChunkKR"],
)
def test_a_class_of_a_kind_that_is_taken_but_out_of_reach_is_declined_as_such(agent, task):
    """What compares agents on tasks tells "not for this task" from a fault by the kind of the error."""
    demonstrations = collect(task, 20, np.random.default_rng(0), expert_log_probs=True)
    assert agent.takes(task.policy_class)
    with pytest.raises(NotTractableError, match=r"chunk=1|binary tokens"):
        agent.fit(demonstrations, task.policy_class, rng=np.random.default_rng(0))
