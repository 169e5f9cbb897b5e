"""What stable-baselines3 should log besides the return: how far the policy's rollouts are from the expert's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from agents.rl.sb3_policy import SB3Policy
from ntp_envs import DistanceCurve, Task, distance
from ntp_envs._validation import check_in, check_int
from ntp_envs.distances.result import METRICS

__all__ = ["DistanceCallback"]


class DistanceCallback(BaseCallback):
    """Log the distance between the policy's and the expert's rollout laws at some prefix lengths during training.

    Before the first rollout, then whenever ``every`` environment steps have passed, and at the end, it records
    ``distance/<metric>_h<h>`` to the model's logger (and so to TensorBoard, CSV or the console, whatever it is
    configured for), and where the distance is sampled also the standard error at H, ``distance/<metric>_se``. Each
    measurement is written at once, as those of stable-baselines3's ``EvalCallback`` are.

    It measures the policy as it is, without exploration (see `SB3Policy` for DQN), by `ntp_envs.distance`: exactly
    where H is small, else from ``n`` sequences of its own, the same random numbers each time, so that the curve moves
    because the policy does. Neither the training environment nor a global generator is touched.

    Args:
        task: whose expert to compare with.
        every: environment steps between measurements, at least 1.
        prefixes: lengths h in 1..H; by default 1, H/4, H/2 and H.
        metric: ``"hellinger2"`` (squared Hellinger ``sum (sqrt P - sqrt Q)^2``, in [0, 2]), ``"tv"`` or ``"kl"``
            (nats, expert first).
        n: sequences drawn, where it is sampled.
        seed: of the draws.
        temperature: of DQN and QRDQN, as in `SB3Policy`.
        use_masking: of MaskablePPO, as in `SB3Policy` and its own ``learn``.

    Attributes:
        history: ``(environment steps, DistanceCurve)`` of each measurement. It begins anew with a training that begins
            at step 0; one that goes on (``learn(..., reset_num_timesteps=False)``) adds to it.

    Raises:
        ValueError, TypeError: an argument out of range; when training starts, a model with other spaces.

    >>> from stable_baselines3 import PPO
    >>> from agents.rl import make_vec_env
    >>> envs = make_vec_env("Contamination", 8, horizon=8)
    >>> watch = DistanceCallback(envs.get_attr("task")[0], every=64)
    >>> model = PPO("MlpPolicy", envs, n_steps=8, batch_size=64, n_epochs=1, device="cpu").learn(128, callback=watch)
    >>> [steps for steps, _ in watch.history]
    [0, 64, 128]
    """

    def __init__(
        self,
        task: Task,
        *,
        every: int = 10_000,
        prefixes: Sequence[int] | None = None,
        metric: str = "hellinger2",
        n: int = 2_000,
        seed: int = 0,
        temperature: float = 0.0,
        use_masking: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not isinstance(task, Task):
            raise TypeError(f"task={task!r} must be an ntp_envs.Task, not {type(task).__name__}.")
        self.task = task
        self.every = check_int("every", every, minimum=1)
        horizon = task.horizon
        chosen = (1, horizon // 4, horizon // 2, horizon) if prefixes is None else prefixes
        if prefixes is None:
            chosen = [h for h in chosen if h >= 1]
        self.prefixes = sorted({check_int("prefixes", h, minimum=1, maximum=horizon) for h in chosen})
        self.metric = check_in("metric", metric, [name for name in METRICS if name != "coverage"])
        self.n = check_int("n", n, minimum=4)
        self.seed = check_int("seed", seed, minimum=0)
        self.temperature = temperature
        self.use_masking = use_masking
        self.history: list[tuple[int, DistanceCurve]] = []

    def _on_training_start(self) -> None:
        self._policy = SB3Policy(self.model, self.task, temperature=self.temperature, use_masking=self.use_masking)
        if self.model.num_timesteps == 0:
            self.history = []  # a new list: whoever kept the last training's has it still
        else:  # what lies ahead is of a training that this one, an earlier state of it, does not continue
            self.history[:] = [entry for entry in self.history if entry[0] <= self.model.num_timesteps]

    def _on_rollout_start(self) -> None:
        if not self.history or self.num_timesteps >= self.history[-1][0] + self.every:
            self._measure()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if not self.history or self.history[-1][0] < self.num_timesteps:
            self._measure()

    def _measure(self) -> None:
        curve = distance(
            self.task.expert,
            self._policy,
            self.task,
            metric=self.metric,
            n=self.n,
            rng=np.random.default_rng(self.seed),
        )
        self.history.append((self.num_timesteps, curve))
        for h in self.prefixes:
            self.logger.record(f"distance/{self.metric}_h{h}", float(curve.values[h - 1]))
        if not curve.is_exact:
            self.logger.record(f"distance/{self.metric}_se", float(curve.std_error[-1]))
        self.logger.dump(self.num_timesteps)  # the model itself may write more rarely than this measures
