"""The figures of the study: each answers one question, and its caption says what it shows."""

from __future__ import annotations

from experiments.studies.parity.drawings import contaminated_figure, parity_figure, proper_figure
from experiments.studies.parity.options import ParityOptions
from experiments.study import FigureSpec
from experiments.summary import Summary

__all__ = ["figures"]

PARITY = "NoisyParity, 4 free bits and the parity of three of them, wrong with probability .1, R times over."
CONTAMINATED = (
    "ARLinear, a window of two tokens: with probability .01 the whole document follows the opposite member of the "
    "class. The best in class comes from a local search; the rho learners too search, and certify against the replies "
    "they found."
)


def figures(options: ParityOptions, summary: Summary) -> list[FigureSpec]:
    """All figures, the headline first."""
    return [
        FigureSpec(
            "headline",
            "What can the linear class say at all?",
            f"{PARITY} Population, exact. No linear function of the bits predicts the answer, so the best linear "
            "policy guesses and its distance grows with H towards 2. Learners in the class find just that policy: "
            "C_apx = 1, nothing is amplified, and no better learner would help. ChunkKR with norm bound 8 has left the "
            "class for a space of functions that holds the parity. (K = 5, an episode; the norm bound is that on the "
            "answer's law.)",
            lambda: parity_figure(options, summary),
        ),
        FigureSpec(
            "parity-samples",
            "Is the error on parity one of learning?",
            f"{PARITY} n={options.n}, {options.seeds} data sets, bands: 95 % intervals of the mean at each point. "
            "Log-loss, both smoothings, rho and chunked rho all have the factor of the best policy; only leaving the "
            "class gets below 1. (Distances end at 2, so the factor of any policy that is wrong a little in every "
            "episode comes back to 1.)",
            lambda: proper_figure(options, summary),
        ),
        FigureSpec(
            "contaminated-population",
            "And where the class can say something?",
            f"{CONTAMINATED} Population, exact. There the class has a good policy, but log-loss averages the two kinds "
            "of document and drifts away from it as H grows; the rho-estimator on whole sequences does not, longer "
            "chunks lie between. ChunkKR (norm bound "
            f"{max(options.bounds):g}) is not confined to the class and may go below 1.",
            lambda: contaminated_figure(options, summary, sampled=False),
        ),
        FigureSpec(
            "contaminated-samples",
            "The same from samples, at longer horizons",
            f"{CONTAMINATED} n={options.linear_n}, {options.seeds} data sets, bands: 95 % intervals of the mean "
            "at each point. Smoothing with 1/H helps only while 1/H is large beside the contamination; long chunks of "
            "ChunkKR cost data, as each of 2^K strings has a probability of its own.",
            lambda: contaminated_figure(options, summary, sampled=True),
        ),
    ]
