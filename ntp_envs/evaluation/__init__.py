"""How well a policy writes: accuracy under the true prefix and on its own, cross-entropy, success, and search."""

from ntp_envs.evaluation.evaluate import evaluate
from ntp_envs.evaluation.result import Evaluation, SampleText
from ntp_envs.evaluation.search import SearchResult, backtracking_search, best_of

__all__ = ["Evaluation", "SampleText", "SearchResult", "backtracking_search", "best_of", "evaluate"]
