"""The rho game in autoregressive linear classes: local search, an exact finite game, a certificate.

In one dimension `solve_linear_game_on_line` solves it to a proved gap over the whole class, by branch and bound
(`agents.rho_one_parameter`). From two dimensions on `solve_linear_game` searches.

The game ``min_theta max_theta' sum_i w_i tau(P_theta(i), P_theta'(i))`` over a ball is not convex in theta, and solving
it is hard in general: for this class no efficient algorithm has an approximation factor below every polynomial in the
horizon, if learning parities with noise is hard (Rohatgi et al., 2025, arXiv:2502.12465). What is done:

1. Candidates: maximum likelihood on all the data, on trimmed data, on what was trimmed away, on random parts
   (`agents.rho_ar_linear_candidates`), and points on segments between those that differ.
2. Rounds. The finite game on all candidates so far is solved exactly (`agents.rho_game`); local best replies to its
   winner are found and join the candidates; so does what a local descent makes of the winner, against all replies
   known. The rounds end when the winner has been tested so, no better reply was found, and descent gains nothing, from
   the winner or from candidates unlike it.
3. Certificate: the winner meets all candidates, random members of the class at every scale, and local best replies
   from many starts. If one is better, the rounds go on with it.

Guaranteed: the exact solution of the finite game over the candidates (if the search was cut short, by the number of
candidates or by time: the best of those that were tested). Measured: the best reply that the certificate found, a
*lower* bound on the worst case over the ball. Not guaranteed: that no better reply, or no better theta, exists.

One fact helps. F(theta, .) has a local maximum at theta itself exactly if theta is a local maximum of the likelihood,
for either tau: at theta' = theta the gradient of F is a multiple of the likelihood's and so is its Hessian. So maximum
likelihood is *the* rho-estimator, with value 0, unless a reply some way off beats it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.rho_ar_linear_candidates import initial_candidates, likeliest
from agents.rho_ar_linear_search import RhoPayoffs, best_reply_from, descend, nearby
from agents.rho_ar_linear_units import ChunkLikelihood
from agents.rho_game import solve_finite_game
from agents.rho_one_parameter import OneParameterSolution, solve_one_parameter_game
from agents.softmax_rows import check_dimension
from ntp_envs import ARLinearClass, Demonstrations, NotTractableError

__all__ = ["LinearSolution", "solve_linear_game", "solve_linear_game_on_line"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FLOOR = 1e-9  # a chunk: differences in F below it count as none (the likelihood is maximised to 1e-10)
ROUNDS = 60
ACTIVE = 32  # replies that a descent starts with
WIDENINGS = 2
OTHER_STARTS = 5  # of descents
REFINEMENTS = 8  # of one descent: replies that it had overlooked join in
GROWTH = 32  # candidates at the end, at most, as a multiple of those at the start
RANDOM = 8  # random replies of each of two kinds in the certificate, likewise
POLES = 6
MOST_WEIGHTS = 2048  # thousands of Hessians are diagonalised
ALONG = np.array([0.125, 0.25, 0.5, 0.75, 0.875])
BEYOND = np.array([0.5, 2.0, 4.0, 8.0])


@dataclass(frozen=True, eq=False)
class LinearSolution:
    """The winner of the finite game, and what it was tested against.

    Attributes:
        theta: ``(d,)`` parameters of the winner.
        value: its worst case over the candidates: the value of the finite game if ``settled``.
        reply_value: its worst case over all replies tried, at least ``value``; a lower bound on that over the ball.
        reply: ``(d,)`` where that is attained.
        settled: the rounds ended by themselves. Otherwise theta is the best of the candidates that were tested.
        converged: settled, and no reply tried is better than ``value`` by more than the tolerance. It is a statement
            about theta alone: another theta with a smaller worst case may have been missed.
        candidates: how many.
        replies: how many replies theta was tested against in the end.
        rounds: finite games solved.
        points: distinct chunks.
        predicted_seconds: what the cost model said before the search started; in a large ball, where likelihoods are
            all but flat, it may take ten times as long.
    """

    theta: FloatArray
    value: float
    reply_value: float
    reply: FloatArray
    settled: bool
    converged: bool
    candidates: int
    replies: int
    rounds: int
    points: int
    predicted_seconds: float


def solve_linear_game(
    policy_class: ARLinearClass,
    demonstrations: Demonstrations,
    chunk: int,
    tau: str,
    *,
    tol: float = 1e-6,
    candidates: int = 32,
    memory_gb: float = 4.0,
    time_limit: float = 60.0,
    rng: np.random.Generator,
) -> LinearSolution:
    """A theta in the ball with a small worst case; see above for what is guaranteed.

    Args:
        policy_class: features and radius.
        demonstrations: weights are normalised; equal demonstrations, and chunks alike to the class, are pooled.
        chunk: K, tokens a chunk.
        tau: ``"ratio"`` or ``"psi"``.
        tol: replies better by less than ``tol`` times the value (and 1e-9 a chunk) are not followed up.
        candidates: how many to start with. The search ends with at most 32 times as many.
        memory_gb: refuse to start if more is needed.
        time_limit: seconds of search; past it the best of the candidates that were tested is returned, not ``settled``,
            with its certificate as always. Looked at between local searches, so that a fit may take a few of these, and
            the certificate, longer.
        rng: source of the random parts of the data and of the random replies. One seed is taken from it: how many
            steps the search takes changes nothing that is drawn from it afterwards.

    Raises:
        NotTractableError: the predicted memory is above ``memory_gb``, or there are more than 2048 weights.
        ValueError: features that are not finite.

    >>> from ntp_envs import make_task
    >>> from ntp_envs.features import FlipSign
    >>> task = make_task("Contamination", horizon=16)
    >>> flips = ARLinearClass(FlipSign(), radius=11.5129)
    >>> game = solve_linear_game(flips, task.population(), 16, "ratio", rng=np.random.default_rng(0))
    >>> game.theta.round(3).tolist(), game.settled
    ([-8.406], True)
    """
    data, cost = _data(policy_class, demonstrations, chunk, GROWTH * candidates, memory_gb)
    predicted = cost.check_game(data)
    own = np.random.default_rng(rng.integers(1 << 32, size=4))
    search = _Search(RhoPayoffs(data, policy_class.radius, tau), tol, candidates, time_limit, own)
    search.run()
    replies, values = search.certificate()
    best = int(values.argmax())
    return LinearSolution(
        theta=search.thetas[search.winner],
        value=search.value,
        reply_value=max(float(values[best]), search.value),
        reply=replies[best],
        settled=search.settled,
        converged=search.settled and not search.better(float(values[best]), search.value),
        candidates=len(search.thetas),
        replies=len(replies),
        rounds=search.rounds,
        points=len(data),
        predicted_seconds=predicted,
    )


def solve_linear_game_on_line(
    policy_class: ARLinearClass,
    demonstrations: Demonstrations,
    chunk: int,
    tau: str,
    *,
    tol: float = 1e-6,
    memory_gb: float = 4.0,
    time_limit: float = 60.0,
) -> OneParameterSolution:
    """The theta of a class of dimension 1 with the smallest worst case, and a proved gap.

    Arguments and errors are those of `solve_linear_game`; past the time limit the gap may be large.

    >>> from ntp_envs import make_task
    >>> from ntp_envs.features import FlipSign
    >>> task = make_task("Contamination", horizon=16)
    >>> flips = ARLinearClass(FlipSign(), radius=11.5129)
    >>> game = solve_linear_game_on_line(flips, task.population(), 16, "ratio")
    >>> round(game.theta, 3), game.gap <= 1e-6 * game.value
    (-8.406, True)
    """
    data, cost = _data(policy_class, demonstrations, chunk, 1, memory_gb)
    cost.check_game(data)
    features, counts, weights = data.line()
    radius, tol_start = policy_class.radius, 0.1 * FLOOR * float(weights.sum())
    return solve_one_parameter_game(
        features,
        counts,
        weights,
        (-radius, radius),
        tau,
        start=float(likeliest(data, data.weights, radius, np.zeros(1), tol_start)[0]),
        tol=tol,
        time_limit=time_limit,
    )


def _data(
    policy_class: ARLinearClass, demonstrations: Demonstrations, chunk: int, most: int, memory_gb: float
) -> tuple[ChunkLikelihood, _Cost]:
    """The distinct chunks of positive weight, if their features fit in memory."""
    used = demonstrations if demonstrations.weights is None else demonstrations.subset(demonstrations.weights > 0)
    used = used.pooled()
    cost = _Cost(policy_class, used, chunk, most, memory_gb)
    cost.check_data()
    return ChunkLikelihood(policy_class.features, used, chunk), cost


class _Cost:
    """What a fit would take, known before it starts."""

    def __init__(
        self, policy_class: ARLinearClass, demonstrations: Demonstrations, chunk: int, most: int, memory_gb: float
    ) -> None:
        self.features, self.most, self.memory_gb = policy_class.features, most, memory_gb
        self.n, self.horizon, self.chunk = len(demonstrations), demonstrations.horizon, chunk
        self.entries = int(np.prod(self.features.feature_shape))
        self.shared = self.features.codes(demonstrations.prompts[:1], demonstrations.tokens[:1]) is not None

    def check_data(self) -> None:
        """Numbers for contexts and counts, and features if every prefix has its own."""
        check_dimension(self.features, "the rho game", MOST_WEIGHTS)
        per_token = 6 if self.shared else 6 + self.entries
        self._check(8.0 * self.n * self.horizon * per_token, "the features of the data")

    def check_game(self, data: ChunkLikelihood) -> float:
        """Log-densities of the candidates, the copy that the finite game makes, scores, the work of a descent.

        Returns the seconds to expect.
        """
        seconds = _seconds(data)
        self._check(
            8.0 * len(data) * (2 * self.most + 2 * self.features.dimension + 4 * ACTIVE),
            f"{len(data)} distinct chunks under up to {self.most} candidates (and perhaps {seconds:.0f} s)",
        )
        return seconds

    def _check(self, needed: float, what: str) -> None:
        if needed / 1e9 <= self.memory_gb:
            return
        raise NotTractableError(
            f"the rho game with n={self.n} distinct sequences, H={self.horizon}, K={self.chunk} and "
            f"d={self.features.dimension} needs about {needed / 1e9:.3g} GB for {what}, more than "
            f"memory_gb={self.memory_gb:g}. Use fewer candidates, a subset of the demonstrations or longer chunks, "
            "raise memory_gb, or fit this class with LogLossBC (or ChunkKR) instead."
        )


def _seconds(data: ChunkLikelihood) -> float:
    """The order of magnitude where maximum likelihood is beaten (4000 second-order passes over the data, on
    one core of 2020 or later), and much too high where it is not."""
    entries = sum(b.counts.size if isinstance(b.counts, np.ndarray) else b.counts.nnz for b in data.blocks)
    d, contexts = data.features.dimension, len(data.values)
    return 4000 * (2e-4 + 1e-9 * (d * entries + 2 * d * d * (contexts + len(data)) + 100 * len(data)))


class _Search:
    """Candidates, their log-densities, and which of them have been tested by a search for replies."""

    def __init__(self, game: RhoPayoffs, tol: float, number: int, time_limit: float, rng: np.random.Generator) -> None:
        self.deadline = time.monotonic() + time_limit
        self.game, self.tol, self.rng = game, tol, rng
        self.number, self.most = number, GROWTH * number
        total = float(game.data.weights.sum())
        self.floor = FLOOR * total
        self.thetas = np.empty((0, game.data.features.dimension))
        self.log_densities = np.empty((len(game.data), 0))
        self.tested: list[int] = []
        self.widened_from: list[int] = []
        self.rounds, self.settled, self.winner, self.value = 0, False, 0, np.inf
        self.add(initial_candidates(game.data, game.radius, number, 0.1 * FLOOR * total, rng))

    def add(self, thetas: FloatArray) -> None:
        """Further candidates, as far as there is room."""
        thetas = thetas[: self.most - len(self.thetas)]
        if len(thetas):
            self.thetas = np.concatenate([self.thetas, thetas])
            self.log_densities = np.hstack([self.log_densities, self.game.data.log_densities(thetas)])

    def full(self) -> bool:
        """Whether there is no room, or no time, for more candidates."""
        return len(self.thetas) >= self.most or time.monotonic() >= self.deadline

    def payoffs(self, index: int) -> FloatArray:
        """``(M,)`` F of a candidate against all."""
        return self.game.against(self.log_densities[:, index], self.log_densities)

    def better(self, value: float, than: float) -> bool:
        return value > than * (1 + self.tol) + self.floor

    # -- rounds --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Rounds until one changes nothing and the certificate agrees, or there is no room for more candidates."""
        self.test(0)
        self.add(self._between(self._poles(0)))
        widenings = 0
        while self.rounds < ROUNDS and not self.full():
            self.rounds += 1
            solution = solve_finite_game(self.log_densities, self.game.data.weights, self.game.tau)
            self.winner, self.value = solution.index, solution.value
            replies, values = self.test(self.winner)
            best = float(values.max())
            if self.better(best, self.value):
                here = self.thetas[self.winner]
                self.add(self.game.into_ball(here + BEYOND[:, None] * (replies[int(values.argmax())] - here)))
            if best > self.floor and self.descend(self.winner):
                continue
            if not self.better(best, self.value):
                if best > self.floor and widenings < WIDENINGS:
                    widenings += 1
                    self.widen()
                    continue
                replies, values = self.certificate()
                self.settled = not self.better(float(values.max()), self.value)
                if self.settled:
                    return
                self.add(replies[[int(values.argmax())]])
        self._choose_tested()

    def test(self, index: int) -> tuple[FloatArray, FloatArray]:
        """Local best replies to a candidate, which join the candidates if they beat it; and their F."""
        replies, values = self.replies(index, tops=3, number=32, climbs=2)
        self.add(replies[values > max(0.5 * float(values.max()), self.floor)])
        self.tested.append(index)
        return replies, values

    def descend(self, start: int) -> bool:
        """Whether a local descent from a (tested) candidate found a better one."""
        payoffs = self.payoffs(start)
        value = float(payoffs.max())
        active = set(np.argsort(-payoffs)[:ACTIVE].tolist())
        for _ in range(REFINEMENTS):
            chosen = np.array(sorted(active))
            theta = descend(self.game, self.thetas[start], self.log_densities[:, chosen], value)
            new = len(self.thetas)
            self.add(theta[None])
            if self.full():
                return False
            if not self.better(value, float(self.payoffs(new)[chosen].max())):
                return False
            self.test(new)
            payoffs = self.payoffs(new)
            if self.better(value, float(payoffs.max())):
                return True
            active |= set(np.argsort(-payoffs)[:8].tolist())
        return False

    def widen(self) -> None:
        """Descents from candidates unlike the winner: F is not convex, and the rounds follow the winner alone.

        They start where the worst case against the winner's best replies, and against maximum likelihood, is smallest.
        """
        against = np.unique(np.append(np.argsort(-self.payoffs(self.winner))[:ACTIVE], 0))
        worst = np.max([-self.payoffs(int(k)) for k in against], axis=0)  # F is antisymmetric
        seen = [self.winner, *self.widened_from]
        for start in self._distinct(np.argsort(worst, kind="stable"), seen, OTHER_STARTS):
            if self.full():
                return
            self.widened_from.append(int(start))
            self.test(int(start))
            self.descend(int(start))

    def _choose_tested(self) -> None:
        """Without room for more: the candidate with the smallest worst case among those with a search for replies."""
        worst = {index: float(self.payoffs(index).max()) for index in self.tested}
        self.winner = min(worst, key=lambda index: worst[index])
        self.value = worst[self.winner]

    # -- replies -------------------------------------------------------------------------------------------------------

    def replies(self, index: int, *, tops: int, number: int, climbs: int) -> tuple[FloatArray, FloatArray]:
        """Local best replies to a candidate ``(R, d)`` and their F: from ``tops`` candidates, itself, and ``climbs`` of
        ``number`` random members nearby."""
        own = self.log_densities[:, index]
        near = nearby(self.game, self.thetas[index], number, self.rng)
        order = np.argsort(-self.game.against(own, self.game.data.log_densities(near)), kind="stable")
        starts = [self.thetas[index], *self.thetas[self._poles(index, tops)], *near[order[:climbs]]]
        tol = 0.1 * max(self.tol * max(self.value if np.isfinite(self.value) else 0.0, 0.0), 0.1 * self.floor)
        found = [best_reply_from(self.game, own, start, tol) for start in starts]
        return np.stack([theta for theta, _ in found]), np.array([value for _, value in found])

    def certificate(self) -> tuple[FloatArray, FloatArray]:
        """``(R, d)`` replies to the winner, and their F: local best replies from many starts, random members near it
        and anywhere in the ball, and all candidates."""
        climbed, values = self.replies(self.winner, tops=8, number=RANDOM * self.number, climbs=8)
        anywhere = self.rng.normal(size=(RANDOM * self.number, self.thetas.shape[1]))
        anywhere *= self.game.radius * self.rng.random((len(anywhere), 1)) / np.linalg.norm(anywhere, axis=1)[:, None]
        random = np.concatenate([nearby(self.game, self.thetas[self.winner], RANDOM * self.number, self.rng), anywhere])
        own = self.log_densities[:, self.winner]
        step = max((1 << 22) // len(own), 1)
        met = [
            self.game.against(own, self.game.data.log_densities(random[start : start + step]))
            for start in range(0, len(random), step)
        ]
        return (
            np.concatenate([climbed, random, self.thetas]),
            np.concatenate([values, *met, self.payoffs(self.winner)]),
        )

    def _poles(self, index: int, number: int = POLES) -> IntArray:
        """Up to ``number`` candidates with the largest F against this one, unlike it and one another."""
        return self._distinct(np.argsort(-self.payoffs(index), kind="stable"), [index], number)

    def _distinct(self, order: IntArray, seen: list[int], number: int) -> IntArray:
        """The first ``number`` candidates in this order whose log-densities differ from those ``seen`` and from one
        another: by 0.02 nats a chunk on average, differences counting at most 1."""
        law = self.game.data.weights / self.game.data.weights.sum()
        chosen: list[int] = []
        for k in order:
            if len(chosen) == number:
                break
            others = self.log_densities[:, [*chosen, *seen]] - self.log_densities[:, [k]]
            if (law @ np.minimum(np.abs(others), 1.0)).min() > 0.02:
                chosen.append(int(k))
        return np.array(chosen, dtype=np.int64)

    def _between(self, poles: IntArray) -> FloatArray:
        """Points on the segments between maximum likelihood (candidate 0) and its best replies, and between those."""
        ends = self.thetas[np.concatenate([[0], poles])]
        pairs = [(i, j) for i in range(len(ends)) for j in range(i + 1, len(ends))]
        points = [ends[i] + ALONG[:, None] * (ends[j] - ends[i]) for i, j in pairs]
        return np.concatenate([np.empty((0, ends.shape[1])), *points])
