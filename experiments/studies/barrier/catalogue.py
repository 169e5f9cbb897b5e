"""The figures of the study: each answers one question, and its caption says what the learners are allowed to see."""

from __future__ import annotations

from experiments.studies.barrier.drawings import data_figure, halving_figure, horizon_figure, rare_figure
from experiments.studies.barrier.options import BarrierOptions
from experiments.study import FigureSpec
from experiments.summary import Summary

__all__ = ["SEES", "figures"]

SEES = (
    "A next-token learner chooses the option of layer h from the law of (x, a_1:h) and that layer's options alone; "
    "chunked rho sees K layers together, rho all of them."
)


def figures(options: BarrierOptions, summary: Summary) -> list[FigureSpec]:
    """All figures, the headline first."""
    return [
        FigureSpec(
            "headline",
            "Does more data help?",
            f"{SEES} Multi-scale consistency game, {options.seeds} data sets a point, bands: 95 % intervals of "
            "the mean at each. With more data a next-token learner sees better which of its options is lightest, takes "
            "the finest error sets and ends at (1 - eta) H; learners that look further use the same data to find the "
            "shared ones. At n=100 most error sets have not been hit once: options tie, the first one is taken, and "
            "nobody can tell sets apart.",
            lambda: data_figure(options, summary),
        ),
        FigureSpec(
            "horizon",
            "How does the factor grow with H, for each number of demonstrations?",
            "The factor of log-loss (smoothed and layer-by-layer learners make the same choices) is linear in H from "
            "100 demonstrations to the population; learners on chunks of K tokens are K times lower or more, whole "
            "sequences have factor 1. Dotted: slope 1.",
            lambda: horizon_figure(options, summary),
        ),
        FigureSpec(
            "halving",
            "Could a cleverer rule for ties help?",
            "Halving game, population: each layer offers a random half of the previous layer's error sets, all of the "
            "same mass, so that ties are all a layer sees. Any learner that decides layer by layer, even one that "
            "randomises and remembers its choices, uses 1 + (H - 1)/2 sets or more in expectation; taking the first "
            f"attains it. One set would do. Means over {options.halving_seeds} draws of the game, 95 % intervals.",
            lambda: halving_figure(options, summary),
        ),
        FigureSpec(
            "rare-mode",
            "Is it only because layers share no parameters?",
            "RareMode: two policies, each for all layers, with bounded density ratio. Log-loss adds up the tokens of "
            "all layers and still changes to the worse policy at H=28.7; fewer demonstrations blur the switch, more "
            "make it certain (of 100 documents none is rare in 37 % of the data sets, and then log-loss cannot go "
            "wrong). Smoothing with 1/H puts it off by a few tokens. The rho-estimator (population) keeps the "
            f"better one. Means over {options.rare_seeds} data sets, 95 % intervals.",
            lambda: rare_figure(options, summary),
        ),
    ]
