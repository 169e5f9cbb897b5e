"""`imitation` 1.0.1 (its BC, DAgger and GAIL) on environments of this suite: the numbers, as a script and for a test.

Its pins are old, but installed without its dependencies it works on current gymnasium and stable-baselines3;
``.ci/interop imitation`` makes such an environment from nothing and runs everything here.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from imitation.algorithms.adversarial.gail import GAIL
from imitation.algorithms.bc import BC
from imitation.algorithms.dagger import SimpleDAggerTrainer
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util.logger import HierarchicalLogger
from imitation.util.logger import configure as configure_logger
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import set_random_seed

from agents import LogLossBC
from agents.rl import SB3Policy, make_vec_env
from ntp_envs import (
    BestInClass,
    Demonstrations,
    MarkovClass,
    MarkovPolicy,
    Policy,
    Task,
    TokenEnv,
    collect,
    distance,
    make_task,
)
from ntp_envs.data import imitation_expert, to_imitation

N_DEMONSTRATIONS = 2000


@dataclass(frozen=True)
class Sticky(Task):
    """A chain that repeats its last token with probability ``stay``, and a class that contains it."""

    horizon: int = 8
    stay: float = 0.7
    vocab_size = 2
    prompt_length = 0

    @cached_property
    def expert(self):
        s = self.stay
        return MarkovPolicy([[s, 1 - s], [1 - s, s], [0.5, 0.5]], order=1)  # last row: nothing came before

    @cached_property
    def policy_class(self):
        return MarkovClass(2, order=1)

    def prompt_law(self):
        return np.zeros((1, 0), dtype=int), np.ones(1)

    def best_in_class(self):
        return BestInClass(self.expert, 0.0, "the expert is in the class")


class LastToken(BaseFeaturesExtractor):
    """One-hot of the last token written ("none" at the start): what a first-order Markov policy sees."""

    def __init__(self, observation_space, vocab_size: int) -> None:
        super().__init__(observation_space, vocab_size + 1)
        self.size, self.horizon = vocab_size + 1, len(observation_space.nvec)

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:  # (B, H (A + 1)): stable-baselines3 has encoded it
        lines = one_hot.view(-1, self.horizon, self.size)
        written = 1.0 - lines[..., -1]  # (B, H), first the tokens, then "not yet"
        last = written - torch.cat([written[:, 1:], torch.zeros_like(written[:, :1])], dim=1)
        tokens = (last[..., None] * lines)[..., :-1].sum(dim=1)
        return torch.cat([tokens, 1.0 - written[:, :1]], dim=1)


def quiet(folder: str) -> HierarchicalLogger:
    return configure_logger(folder, format_strs=[])


def distance_to_expert(task: Task, policy: Policy) -> float:
    """Squared Hellinger distance 2 (1 - BC), in [0, 2], exact."""
    return distance(task.expert, policy, task, metric="hellinger2").final


def clone(task: Task, demos: Demonstrations, seed: int, *, markov: bool) -> Policy:
    """imitation's BC: a table of the last token (``markov``), or its default network of two hidden layers."""
    set_random_seed(seed)
    env = TokenEnv(task)
    network = None
    if markov:
        network = ActorCriticPolicy(
            env.observation_space,
            env.action_space,
            lr_schedule=lambda _: 1.0,
            net_arch=[],
            features_extractor_class=LastToken,
            features_extractor_kwargs={"vocab_size": task.vocab_size},
        )
    with tempfile.TemporaryDirectory() as folder:
        trainer = BC(
            observation_space=env.observation_space,
            action_space=env.action_space,
            rng=np.random.default_rng(seed),
            policy=network,
            demonstrations=to_imitation(demos),
            batch_size=1000 if markov else 100,
            ent_weight=0.0,
            device="cpu",
            custom_logger=quiet(folder),
        )
        for rate in (1.0, 0.1):  # the last passes with small steps, so that it ends at the maximum and not around it
            trainer.optimizer.param_groups[0]["lr"] = rate * (0.03 if markov else 3e-3)
            trainer.train(n_epochs=4, progress_bar=False)
    return SB3Policy(trainer.policy, task)


def run_bc(seeds: int = 6, n: int = N_DEMONSTRATIONS) -> dict[str, np.ndarray]:
    """``(seeds,)`` distances to the expert of our LogLossBC and of imitation's BC, each on the same demonstrations."""
    task = Sticky()
    out: dict[str, list[float]] = {"LogLossBC": [], "BC, same class": [], "BC, its own network": []}
    for seed in range(seeds):
        demos = collect(task, n, np.random.default_rng(seed))
        out["LogLossBC"].append(distance_to_expert(task, LogLossBC().fit(demos, task.policy_class).policy_))
        out["BC, same class"].append(distance_to_expert(task, clone(task, demos, seed, markov=True)))
        out["BC, its own network"].append(distance_to_expert(task, clone(task, demos, seed, markov=False)))
    return {name: np.array(values) for name, values in out.items()}


def run_dagger(steps: int = 2500, horizon: int = 8, seed: int = 0) -> tuple[float, float]:
    """Distance to the expert before and after DAgger's rounds; the expert is asked for draws."""
    set_random_seed(seed)
    task, rng = Sticky(horizon=horizon), np.random.default_rng(seed)
    venv = make_vec_env(task, 8, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        learner = BC(
            observation_space=venv.observation_space,
            action_space=venv.action_space,
            rng=rng,
            ent_weight=0.0,
            device="cpu",
            custom_logger=quiet(folder),
        )
        before = distance_to_expert(task, SB3Policy(learner.policy, task))
        trainer = SimpleDAggerTrainer(
            venv=venv,
            scratch_dir=folder,
            expert_policy=imitation_expert(task, rng=rng),
            expert_trajs=to_imitation(collect(task, 20, rng), form="trajectories", task=task),
            bc_trainer=learner,
            rng=rng,
            custom_logger=quiet(folder),
        )
        trainer.train(steps, bc_train_kwargs={"n_epochs": 2, "progress_bar": False})
    return before, distance_to_expert(task, SB3Policy(trainer.policy, task))


def run_gail(steps: int = 40_960, horizon: int = 8, seed: int = 0) -> tuple[float, float]:
    """Distance to the expert before and after GAIL, PPO against a discriminator.

    On Tightrope, whose expert is deterministic: with a stochastic expert the generator wanders between modes, and the
    distance after a fixed number of steps says little.
    """
    set_random_seed(seed)
    task, rng = make_task("Tightrope", horizon=horizon), np.random.default_rng(seed)
    venv = make_vec_env(task, 32, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        generator = PPO(
            "MlpPolicy", venv, n_steps=64, batch_size=256, ent_coef=0.01, learning_rate=1e-3, device="cpu", seed=seed
        )
        before = distance_to_expert(task, SB3Policy(generator, task))
        trainer = GAIL(
            demonstrations=to_imitation(collect(task, 500, rng)),
            demo_batch_size=1024,
            venv=venv,
            gen_algo=generator,
            reward_net=BasicRewardNet(venv.observation_space, venv.action_space),
            n_disc_updates_per_round=4,
            log_dir=folder,
            custom_logger=quiet(folder),
        )
        trainer.train(steps)
    return before, distance_to_expert(task, SB3Policy(generator, task))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % t-interval of the mean."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def main() -> None:
    """Print everything."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    cloned = run_bc()
    for name, values in cloned.items():
        low, high = interval(values)
        print(f"{name:22} D_H^2 {values.mean():.5f} [{low:.5f}, {high:.5f}] over {len(values)} seeds")
    low, high = interval(cloned["BC, same class"] - cloned["LogLossBC"])
    print(f"BC, same class, minus LogLossBC: [{low:+.6f}, {high:+.6f}]  ({time.perf_counter() - start:.0f} s)")
    for name, run in (("DAgger", run_dagger), ("GAIL", run_gail)):
        start = time.perf_counter()
        before, after = run()
        print(f"{name:22} D_H^2 {before:.4f} -> {after:.4f}  ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
