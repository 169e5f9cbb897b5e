"""ntp-envs: autoregressive generation as imitation learning.

Tasks, policies, policy classes, demonstrations, distances between rollout laws, and Gymnasium environments.
Depends on numpy, scipy and gymnasium only; matplotlib is loaded to draw.

**An evening's reading.** A policy class that does not contain the expert is fitted to its sequences; how far apart are
the laws of what both write, as sequences get longer? Some twenty parts of the code, in this order, are the whole of it
(``python tests/house.py`` counts their lines).

In all of it a prompt x is P tokens and a sequence a_1..a_H is H more, each in 0..A-1; position h is also called layer
h, and a chunk is K positions. pi is a policy and pi* the expert; in distances P and Q are laws of whole sequences.
n counts demonstrations and B the rows of a batch, theta has dimension d, phi is a feature map. Logarithms are natural.

    ntp_envs/policies.py (Cursor, Policy, CallablePolicy)
        A policy: log-probabilities of the next token in a batch. Scores and samples of sequences follow from them.
    ntp_envs/automata.py (AutomatonPolicy, _EventAutomaton, BernoulliPolicy, RestartedPolicy)
        Policies that remember a state, whose distances are exact at any horizon.
    ntp_envs/policy_classes.py (PolicyClass, FiniteClass, BernoulliClass, ProductClass, ARLinearPolicy, ARLinearClass)
        What a learner may choose from; the linear class is a ball of theta over a feature map.
    ntp_envs/features.py (FeatureMap, WindowOneHot)
        What a linear class sees of a prefix.
    ntp_envs/demonstrations.py (Exactness, Demonstrations)
        Sequences of the expert, and when a weighted set of them is its law.
    ntp_envs/tasks/base.py (BestInClass, Task, collect)
        A task: the law of prompts, the expert, the class, and the best member of it.
    ntp_envs/tasks/bernoulli.py (count_distance, best_bernoulli, Contamination)
        The smallest misspecification: a few documents of another kind. Everything is a sum over counts of flips.
    ntp_envs/tasks/games.py (ErrorSetTask, ConsistencyGame)
        Where each layer's best option is the wrong one for the whole sequence.
    ntp_envs/tasks/registry.py
        Families by name: one line each.
    ntp_envs/distances/metrics.py (Metric, register_metric)
        What is measured: the mean of a function of the log-ratio. One of your own is a line.
    ntp_envs/distances/curve.py (DistanceCurve, Question, ask)
        The question, checked once, and the answer at every prefix length.
    ntp_envs/distances/exact.py (enumerated, _accumulate, by_pairs, _Layer, _Steps)
        Two exact ways: the tree of prefixes, and a recursion over pairs of states.
    ntp_envs/distances/sampled.py (estimated, bridge_curves, one_sided_curves, _bridge_curve)
        The way that always works: half the sequences from each law, with intervals.
    ntp_envs/distances/front.py (_answer, approximation_factor)
        Which of them answers, and the factor that theory bounds.
    agents/base.py (FitReport, Agent)
        A learner: fit, and a report of how far from its optimum it stopped.
    agents/targets.py (Targets)
        What a learner from single tokens is taught: a token or a law, at every prefix.
    agents/fit_class.py (fit_class, token_parts, policy_parts, _finite, choose_layers, _nearest, _bernoulli, _markov)
        The fit of a class to tokens or to laws, one function a class: maximum likelihood is a projection.
    agents/log_loss.py (LogLossBC, SmoothedLogLossBC, LayerwiseBC)
        Next-token prediction: log-loss, and what smoothing and single layers make of it.
    agents/rho_game.py (GameSolution, group_rows, solve_finite_game, solve_bernoulli_game)
        The rho-estimator as a game between two members of the class, solved to a certificate.
    agents/rho.py (_RhoAgent, RhoEstimatorBC, ChunkedRhoBC)
        The estimator on whole sequences, and on chunks: the dial between both kinds of cost.
    agents/chunk_kr/program.py (minimise_augmented, project_onto_ball_and_simplices, certify, best_reply)
        ChunkKR's convex program: next chunks as distributions near a ball of a kernel space.
    experiments/study.py (Options, Study)
        A study: options, cells, analysis.
    experiments/studies/raremode.py
        One of them from end to end: where log-loss takes the worse of two policies, and rho does not.
"""

from ntp_envs.automata import (
    AutomatonPolicy,
    BernoulliMixturePolicy,
    BernoulliPolicy,
    MarkovPolicy,
    RestartedPolicy,
    TableAutomaton,
)
from ntp_envs.checks import NotTractableError, WellSpecifiedError
from ntp_envs.demonstrations import Demonstrations, Exactness
from ntp_envs.distances import (
    DistanceCurve,
    SamplingLawWarning,
    approximation_factor,
    compare_curves,
    coverage_bound_hellinger2,
    coverage_bound_kl,
    distance,
    distance_curves,
    distance_from_log_probs,
    one_sided_distance_from_log_probs,
    register_metric,
    two_sample_test,
)
from ntp_envs.env import TokenEnv
from ntp_envs.evaluation import Evaluation, backtracking_search, backtracking_walk, best_of, evaluate
from ntp_envs.ngram import NGramPolicy
from ntp_envs.policies import (
    CallablePolicy,
    DecodedPolicy,
    EndedPolicy,
    GreedyPolicy,
    MixturePolicy,
    Policy,
    TabularPolicy,
    TargetPolicy,
    UniformPolicy,
)
from ntp_envs.policy_classes import (
    ARLinearClass,
    ARLinearPolicy,
    BernoulliClass,
    EndedClass,
    FiniteClass,
    MarkovClass,
    NGramClass,
    ParametricClass,
    PolicyClass,
    PositionalLinearClass,
    PositionalLinearPolicy,
    ProductClass,
    ended_class,
)
from ntp_envs.registration import register_environment, register_known
from ntp_envs.tasks import BestInClass, Task, make_task, register_task, task_names
from ntp_envs.tasks.base import collect
from ntp_envs.vector_env import TokenVectorEnv
from ntp_envs.wrappers import RolloutDistance, VectorRolloutDistance

__version__ = "0.2.0"

register_known()

__all__ = [
    "ARLinearClass",
    "ARLinearPolicy",
    "AutomatonPolicy",
    "BernoulliClass",
    "BernoulliMixturePolicy",
    "BernoulliPolicy",
    "BestInClass",
    "CallablePolicy",
    "DecodedPolicy",
    "Demonstrations",
    "DistanceCurve",
    "EndedClass",
    "EndedPolicy",
    "Evaluation",
    "Exactness",
    "FiniteClass",
    "GreedyPolicy",
    "MarkovClass",
    "MarkovPolicy",
    "MixturePolicy",
    "NGramClass",
    "NGramPolicy",
    "NotTractableError",
    "ParametricClass",
    "Policy",
    "PolicyClass",
    "PositionalLinearClass",
    "PositionalLinearPolicy",
    "ProductClass",
    "RestartedPolicy",
    "RolloutDistance",
    "SamplingLawWarning",
    "TableAutomaton",
    "TabularPolicy",
    "TargetPolicy",
    "Task",
    "TokenEnv",
    "TokenVectorEnv",
    "UniformPolicy",
    "VectorRolloutDistance",
    "WellSpecifiedError",
    "__version__",
    "approximation_factor",
    "backtracking_search",
    "backtracking_walk",
    "best_of",
    "collect",
    "compare_curves",
    "coverage_bound_hellinger2",
    "coverage_bound_kl",
    "distance",
    "distance_curves",
    "distance_from_log_probs",
    "ended_class",
    "evaluate",
    "make_task",
    "one_sided_distance_from_log_probs",
    "register_environment",
    "register_metric",
    "register_task",
    "task_names",
    "two_sample_test",
]
