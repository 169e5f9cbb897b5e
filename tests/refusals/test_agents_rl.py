"""What learners, policies and environments of stable-baselines3 refuse: one row a refusal, and what it must say."""
# ruff: noqa: E402

import gymnasium as gym
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import SyncVectorEnv
from rl_tasks import Fork
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.ppo import CnnPolicy

from agents.rl import DistanceCallback, MaxEntropyReward, SB3Agent, SB3Policy, TokenVecEnv, make_vec_env
from ntp_envs import TokenEnv, TokenVectorEnv, UniformPolicy, collect, make_task

torch.set_num_threads(1)
ROPE, LONGER = make_task("Tightrope", horizon=4), make_task("Tightrope", horizon=8)
TASK, FIVE = make_task("Contamination", horizon=3), make_task("Contamination", horizon=5)
TERNARY = make_task("ARLinear", vocab_size=3, horizon=3)

# -- the learner -------------------------------------------------------------------------------------------------------


def fit(fitted=None, **changes):
    def made_and_fitted():
        agent = SB3Agent("PPO", ROPE, total_timesteps=32, n_envs=2).set_params(**changes)
        task = fitted or agent.task
        agent.fit(collect(task, 4, np.random.default_rng(0)), task.policy_class)

    return made_and_fitted


def model(**own):
    return fit(model_kwargs=own)


FOREIGN = "give the task that they come from"
LEARNER = [
    ("algorithm", fit(algorithm="ppo"), ValueError, "Did you mean 'PPO'"),
    ("task", fit(task="Tightrope"), TypeError, r"ntp_envs\.Task"),
    ("reward", fit(reward="sucess"), ValueError, "Did you mean 'success'"),
    ("no success", fit(reward="success", task=TASK), ValueError, "no notion of success"),
    ("max_ent by DQN", fit(reward="max_ent", algorithm="DQN"), ValueError, "Use algorithm='PPO' or 'A2C'"),
    ("n_envs", fit(n_envs=2.5), TypeError, "n_envs=2.5"),
    ("temperature", fit(temperature=1.0), ValueError, "Q-values"),
    ("measure_every", fit(measure_every=0), ValueError, "every=0"),
    ("model", model(learnig_rate=1.0), ValueError, "Did you mean 'learning_rate'"),
    ("seed", model(seed=1), ValueError, "seed comes from rng"),
    ("images by name", model(policy="CnnPolicy"), ValueError, r"model_kwargs\['policy'\]='CnnPolicy'.*MlpPolicy"),
    ("policy", model(policy="MlpPolcy"), ValueError, "Did you mean 'MlpPolicy'"),
    ("images", model(policy=CnnPolicy), ValueError, "reads images"),
    ("policy's kind", model(policy=3), TypeError, "must be a name"),
    ("horizon", fit(LONGER), ValueError, FOREIGN),
    ("vocabulary", fit(TERNARY), ValueError, FOREIGN),
]

# -- policies and the callback -----------------------------------------------------------------------------------------


def untrained(algorithm=PPO, envs=None, **own):
    own |= {"buffer_size": 10} if algorithm in (DQN, SAC) else {}
    return algorithm("MlpPolicy", make_vec_env(TASK, 2) if envs is None else envs, device="cpu", **own)


def adapted(made=None, task=TASK, **options):
    return lambda: SB3Policy(untrained() if made is None else made(), task, **options)


def cart():
    return untrained(A2C, gym.make("CartPole-v1"))


TOO_LONG = np.zeros((1, 1), int), np.zeros((1, 4), int)
NO_MODEL = "must be a PPO, A2C or DQN model"
POLICIES = [
    ("another horizon", adapted(task=FIVE), ValueError, r"MultiDiscrete\(\[3\] \* 4\).*horizon 5"),
    ("no prompt", adapted(task=Fork(horizon=3)), ValueError, r"MultiDiscrete\(\[3\] \* 3\): 0 prompt token"),
    ("tokens", adapted(task=TERNARY), ValueError, r"Discrete\(2\).*Discrete\(3\)"),
    ("box", adapted(cart), ValueError, "Box"),
    ("continuous", adapted(lambda: untrained(SAC, gym.make("Pendulum-v1"))), TypeError, NO_MODEL),
    ("policy of ours", adapted(lambda: UniformPolicy(2)), TypeError, NO_MODEL),
    ("model's task", adapted(cart, "Contamination"), TypeError, r"ntp_envs\.Task"),
    ("no values", adapted(temperature=1.0), ValueError, "Q-values"),
    ("cold", adapted(lambda: untrained(DQN), temperature=-1.0), ValueError, "temperature"),
    ("long", lambda: adapted()().log_probs(*TOO_LONG), ValueError, "at most 3 tokens"),
    ("callback: task", lambda: DistanceCallback("Contamination"), TypeError, r"ntp_envs\.Task"),
    ("callback: prefixes", lambda: DistanceCallback(TASK, prefixes=[9]), ValueError, "prefixes=9"),
    ("callback: metric", lambda: DistanceCallback(TASK, metric="coverage"), ValueError, "metric"),
    ("callback: every", lambda: DistanceCallback(TASK, every=0), ValueError, "every=0"),
    ("callback: model", lambda: untrained(A2C).learn(5, callback=DistanceCallback(FIVE)), ValueError, "horizon 5"),
]

# -- vector environments -----------------------------------------------------------------------------------------------


def made(**options):
    return lambda: make_vec_env("Tightrope", **{"n_envs": 2, "horizon": 3, **options})


def told(options):
    def call():
        envs = make_vec_env("Contamination", 3, horizon=2)
        envs.set_options(options)
        envs.reset()

    return call


def stepped(actions, reset=True, **options):
    def call():
        envs = made(**options)()
        if reset:
            envs.reset()
        envs.step(np.array(actions))

    return call


def bound(made_model):
    return lambda: made(reward="max_ent")().bind(made_model())


BATCH, OWN = r"must be an ntp_envs\.TokenVectorEnv", DummyVecEnv([lambda: gym.make("CartPole-v1")])
SYNC = SyncVectorEnv([lambda: TokenEnv("Tightrope")])
ENVIRONMENTS = [
    ("option", told({"prompts": [[1]]}), ValueError, "no option 'prompts'"),
    ("prompt's token", told({"prompt": [2]}), ValueError, "outside the vocabulary"),
    ("options", told([{}]), ValueError, "1 options; one for each of the 3"),
    ("autoreset", lambda: TokenVecEnv(TokenVectorEnv(2, "Tightrope")), ValueError, "autoreset_mode='NextStep'"),
    ("single", lambda: TokenVecEnv(TokenEnv("Tightrope")), TypeError, BATCH),
    ("batch of others", lambda: TokenVecEnv(SYNC), TypeError, BATCH),
    ("same step", made(autoreset_mode="NextStep"), ValueError, "same-step mode"),
    ("reward's name", made(reward="maxent"), ValueError, "Did you mean 'max_ent'"),
    ("parameter", made(horizn=3), TypeError, "horizon"),
    ("no reset", stepped([0, 0], reset=False), ResetNeeded, "reset"),
    ("action", stepped([0, 2]), InvalidAction, r"actions\[1\]=2"),
    ("no wrapper", made(wrapper_kwargs={"factor": 2.0}), ValueError, "without wrapper_class"),
    ("no class", made(vec_env_kwargs={"start_method": "spawn"}), ValueError, "choose vec_env_cls"),
    ("monitor", made(monitor_kwargs={"allow_early_resets": False}), ValueError, "vec_env_cls=DummyVecEnv"),
    ("native", made(reward="max_ent", wrapper_class=gym.RewardWrapper), ValueError, "needs the native batch"),
    ("twice", made(env_kwargs={"horizon": 4}), ValueError, "horizon given twice"),
    ("own argument", made(env_kwargs={"reward": "success"}), ValueError, "an argument of make_vec_env itself"),
    ("n_envs of a batch", made(n_envs=0), ValueError, "n_envs=0"),
    ("start_index", made(start_index=-1), ValueError, "start_index=-1"),
    ("max_ent: reward", lambda: MaxEntropyReward(made()()), ValueError, "have reward 'success'"),
    ("max_ent: own", lambda: MaxEntropyReward(OWN), ValueError, "of their own"),
    ("max_ent: unbound", stepped([0, 0], reward="max_ent"), RuntimeError, r"bind\(model\)"),
    ("max_ent: DQN", bound(lambda: untrained(DQN, made()())), TypeError, "DQN is greedy"),
    ("max_ent: horizon", bound(lambda: untrained(A2C, made(horizon=4)())), ValueError, "horizon 3"),
    ("max_ent: model", bound(lambda: UniformPolicy(2)), TypeError, NO_MODEL),
]

ROWS = LEARNER + POLICIES + ENVIRONMENTS


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
