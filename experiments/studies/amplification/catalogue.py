"""The figures of the study: each answers one question, and its caption says what it shows."""

from __future__ import annotations

from experiments.learners import LEARNERS
from experiments.studies.amplification.drawings import (
    chunk_figure,
    consistency_figure,
    control_figure,
    horizon_figure,
    prefix_figure,
    rare_growth_figure,
    rare_switch_figure,
)
from experiments.studies.amplification.options import AmplificationOptions
from experiments.studies.amplification.sweep import CONTROL_THETA
from experiments.study import FigureSpec
from experiments.summary import Summary

__all__ = ["figures"]


def figures(options: AmplificationOptions, summary: Summary, slopes: Summary) -> list[FigureSpec]:
    """All figures, the headline first."""
    population, sampled = "horizon, population", "horizon, samples"
    ours = [*LEARNERS, *options.add]
    few = sorted(options.chunks)[:: max(1, (len(options.chunks) + 1) // 3)][:3]
    largest = max(options.horizons)
    return [
        FigureSpec(
            "headline",
            "Next-token log-loss amplifies misspecification; the rho-estimator does not",
            "Squared Hellinger distance to the expert over that of the best policy of the class, for infinitely many "
            "demonstrations: log-loss in proportion to the horizon H, the rho-estimator flat, chunks between.",
            lambda: horizon_figure(
                "Log-loss drifts with the horizon; the rho-estimator does not",
                summary,
                population,
                ["log-loss", "rho"],
                few,
                slopes,
            ),
        ),
        FigureSpec(
            "horizon-population",
            "All learners, infinitely many demonstrations",
            "Contamination A, exact: smoothing with 1/(nH) vanishes with infinitely many demonstrations, smoothing "
            "with 1/H happens to solve this family; the improper limit of K-token chunks follows 1 + H/K.",
            lambda: horizon_figure(
                "Infinite data does not help log-loss",
                summary,
                population,
                ours,
                options.chunks,
                slopes,
                improper=[K for K in few if largest > 2 * K],
                size=(7.6, 5.6),
            ),
        ),
        FigureSpec(
            "horizon-samples",
            f"All learners, {options.n} demonstrations",
            f"Contamination with eps=.01, n={options.n}, {options.seeds} data sets: the same picture, but smoothing "
            "with 1/H stops helping as 1/(2H) falls below eps (bands: 95 % intervals of the mean at each point).",
            lambda: horizon_figure(
                f"The same from {options.n} demonstrations",
                summary,
                sampled,
                ours,
                options.chunks,
                slopes,
                size=(7.6, 5.2),
            ),
        ),
        FigureSpec(
            "chunk-population",
            "The dial from tokens to documents",
            "The factor falls almost like 1/K as the rho-estimator looks at longer chunks "
            f"(H={options.chunk_horizon}); the improper limit is 1 + H/K.",
            lambda: chunk_figure(options, summary, slopes, sampled=False),
        ),
        FigureSpec(
            "chunk-samples",
            "The dial, from samples",
            f"The same from n={options.n} demonstrations at H={options.sampled_chunk_horizon}, between log-loss and "
            "the rho-estimator on whole documents.",
            lambda: chunk_figure(options, summary, slopes, sampled=True),
        ),
        FigureSpec(
            "rare-mode-switch",
            "RareMode: a jump at a known horizon",
            "With eps=.01 log-loss changes to the worse of two policies at H=64.7 (W=e) and H=28.7 (W=10), and the "
            "factor jumps from 1 to 22.57; the rho-estimator stays at 1.",
            lambda: rare_switch_figure(summary),
        ),
        FigureSpec(
            "rare-mode-growth",
            "RareMode: linear in H with a bounded density ratio",
            "With a rare mode of probability 1/H and density ratio 10 the factor of log-loss doubles with H.",
            lambda: rare_growth_figure(summary),
        ),
        FigureSpec(
            "consistency",
            "ConsistencyGame: a barrier for every layer-by-layer learner",
            "Chunks of K tokens find the error sets of their own scale: the measured factors lie on the closed form, "
            "and next-token learners are at K=1 however much data they have.",
            lambda: consistency_figure(summary),
        ),
        FigureSpec(
            "prefix",
            "Where along the document the distance arises",
            f"Squared Hellinger distance of every prefix of length h (Contamination A, H={options.chunk_horizon}): "
            "learners that look at short units pay a little at every token.",
            lambda: prefix_figure(options, summary),
        ),
        FigureSpec(
            "control-n",
            "Control: well specified, against n",
            f"The expert is a member of the class (flip rate {CONTROL_THETA}); C_apx is not defined there, and both "
            "learners follow the asymptotic 1/(4n) of a regular one-parameter class.",
            lambda: control_figure(options, summary, "n"),
        ),
        FigureSpec(
            "control-horizon",
            "Control: well specified, against H",
            "In the well-specified case the distance at fixed n does not grow with the horizon, for log-loss either.",
            lambda: control_figure(options, summary, "H"),
        ),
    ]
