"""PPO in one file, in the style of CleanRL, on `gym.make_vec`: nothing of the suite but the environment and the ruler.

    python examples/ppo_cleanrl_style.py --env-id ntp/Tightrope-v0 --horizon 16

It needs torch (``pip install 'ntp-envs[neural]'``). All sequences have H tokens and start together, so a rollout of H
steps is a batch of whole sequences; ``autoreset_mode="SameStep"`` returns the next start with the last reward, so that
no step is wasted, and ``observation="one_hot"`` gives what a network takes. At the end the network, adapted as a plain
callable, is measured against the expert.
"""

import argparse
from dataclasses import dataclass, fields

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from ntp_envs import CallablePolicy, distance
from ntp_envs.observations import observe


@dataclass
class Args:
    """Every field is a command line option, ``--total-timesteps 50000``."""

    env_id: str = "ntp/Tightrope-v0"
    horizon: int = 16  # tokens a sequence; 0 for a family that has no such parameter (NoisyParity)
    reward: str = "success"  # or "expert_log_prob"
    seed: int = 0
    total_timesteps: int = 50_000
    num_envs: int = 64
    learning_rate: float = 3e-3
    gamma: float = 1.0
    gae_lambda: float = 0.95
    num_minibatches: int = 4
    update_epochs: int = 4
    clip_coef: float = 0.2
    ent_coef: float = 0.0  # entropy of the visited states only; it does not enter the returns
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5


class ActorCritic(nn.Module):
    """Two small networks on the one-hot line of prompt and tokens so far."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n))
            for n in (vocab_size, 1)
        )

    def forward(self, observations: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        return Categorical(logits=self.actor(observations)), self.critic(observations).squeeze(1)  # of (B, (P+H)(A+1))


def as_policy(network: ActorCritic, task) -> CallablePolicy:
    """The network as an `ntp_envs.Policy`: a function of prompts (B, P) and tokens (B, t) so far."""

    def log_probs(prompts, tokens):
        with torch.no_grad():
            law, _ = network(torch.as_tensor(observe(task, prompts, tokens, "one_hot")))
        return torch.log_softmax(law.logits.double(), dim=1).numpy()

    return CallablePolicy(log_probs, task.vocab_size, horizon=task.horizon, prompt_length=task.prompt_length)


def train(args: Args):
    """Train, and return the task, the policy and the mean return of each rollout."""
    torch.manual_seed(args.seed)
    parameters = {"horizon": args.horizon} if args.horizon else {}
    envs = gym.make_vec(
        args.env_id,
        num_envs=args.num_envs,
        reward=args.reward,
        observation="one_hot",
        autoreset_mode="SameStep",
        **parameters,
    )
    task = envs.unwrapped.task
    T, B = task.horizon, args.num_envs
    width = envs.single_observation_space.shape[0]
    network = ActorCritic(width, task.vocab_size)
    optimizer = torch.optim.Adam(network.parameters(), lr=args.learning_rate, eps=1e-5)
    obs = torch.zeros((T, B, width))
    actions = torch.zeros((T, B), dtype=torch.long)
    log_probs, rewards, dones, values = (torch.zeros((T, B)) for _ in range(4))
    next_obs = torch.as_tensor(envs.reset(seed=args.seed)[0])
    returns_of_rollouts = []
    iterations = -(-args.total_timesteps // (T * B))
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = (1 - iteration / iterations) * args.learning_rate
        for t in range(T):
            obs[t] = next_obs
            with torch.no_grad():
                law, values[t] = network(next_obs)
                actions[t] = law.sample()
                log_probs[t] = law.log_prob(actions[t])
            following, reward, terminated, truncated, _ = envs.step(actions[t].numpy())
            rewards[t], dones[t] = torch.as_tensor(reward), torch.as_tensor(terminated | truncated).float()
            next_obs = torch.as_tensor(following)
        returns_of_rollouts.append(rewards.sum(0).mean().item())

        # generalised advantage estimation
        advantages = torch.zeros((T, B))
        with torch.no_grad():
            next_value = network(next_obs)[1]
        advantage = torch.zeros(B)
        for t in reversed(range(T)):
            alive = 1 - dones[t]  # every end is a termination, so there is nothing to bootstrap from
            delta = rewards[t] + args.gamma * next_value * alive - values[t]
            advantages[t] = advantage = delta + args.gamma * args.gae_lambda * alive * advantage
            next_value = values[t]
        returns = advantages + values

        # the update
        flat = [x.flatten(0, 1) for x in (obs, actions, log_probs, advantages, returns)]
        for _ in range(args.update_epochs):
            for rows in torch.randperm(T * B).tensor_split(args.num_minibatches):
                o, a, old, adv, ret = (x[rows] for x in flat)
                law, value = network(o)
                ratio = (law.log_prob(a) - old).exp()
                clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
                policy_loss = -torch.min(ratio * adv, clipped * adv).mean()
                value_loss = 0.5 * (value - ret).square().mean()
                loss = policy_loss - args.ent_coef * law.entropy().mean() + args.vf_coef * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), args.max_grad_norm)
                optimizer.step()
    envs.close()
    return task, as_policy(network, task), returns_of_rollouts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Args):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    args = Args(**vars(parser.parse_args(argv)))
    task, policy, returns = train(args)
    print(f"return: first rollout {returns[0]:.3f}, last {returns[-1]:.3f}")
    rng = np.random.default_rng(args.seed)
    if task.has_success:
        prompts = task.sample_prompts(1000, rng)
        success = task.success(prompts, policy.sample(prompts, task.horizon, rng)).mean()
        print(f"success of 1000 sequences: {success:.3f}")
    curve = distance(task.expert, policy, task, n=2000, rng=rng)
    print(f"squared Hellinger distance to the expert: {curve.final:.4f} ({curve.method})")


if __name__ == "__main__":
    main()
