"""Agents whose hyper-parameters are agents: names, setting, cloning, and the check that finds clones that share."""

import numpy as np
import pytest

from agents import CrossValidatedBC, LogLossBC, SmoothedLogLossBC, TournamentBC
from agents.base import unfitted
from agents.testing import check_agent


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
