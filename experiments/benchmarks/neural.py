"""Training a small transformer, against the same network in a bare loop of torch: what the training loop costs.

Both train the network from the same weights on the same batches with the same AdamW, cosine schedule and clipping; the
last losses are equal. Ours also checks, keeps the curve, and scores the demonstrations at the end: a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from experiments.benchmarks import Row, timed
from ntp_envs import collect, make_task
from ntp_envs.checks import import_extra


def rows(quick: bool) -> Iterator[Row]:
    """One training.

    Raises:
        ImportError: the extra ``neural`` is missing.
    """
    torch = import_extra("torch", what="the benchmark of training", install='pip install "ntp-envs[neural]"')
    from agents.neural import NetworkClass, NeuralBC
    from agents.neural.training import StoredBatches

    horizon, steps, batch = (8, 3, 8) if quick else (64, 40, 64)
    task = make_task("Contamination", horizon=horizon, p=0.4, q=0.6)
    demos = collect(task, 100, np.random.default_rng(0))
    spec = NetworkClass.for_task("transformer", task, width=8 if quick else 64, layers=2, heads=2)

    def ours() -> float:
        agent = NeuralBC(steps=steps, batch_size=batch, device="cpu").fit(demos, spec, rng=np.random.default_rng(0))
        return float(agent.fit_report_.details["loss_curve"][-1][1])

    def bare() -> float:
        seeds = [int(seed) for seed in np.random.default_rng(0).integers(2**63, size=3)]
        network = spec.initialised(torch.Generator().manual_seed(seeds[0])).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
        batches, rng = StoredBatches(demos, batch), np.random.default_rng(seeds[1])
        for _ in range(steps):
            prompts, tokens = (torch.from_numpy(part) for part in batches.draw(rng)[:2])
            logits = network.out(network(prompts, tokens[:, :-1]))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        return float(loss.detach()) * task.horizon

    yield Row(
        "training a transformer",
        f"{spec.n_parameters} weights, {steps} steps of {batch} x {task.horizon} tokens",
        timed(ours),
        {"bare torch": timed(bare)},
        lambda found, expected: math.isclose(found, expected, rel_tol=1e-3),
        "0.91x",
    )
