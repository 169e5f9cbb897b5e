"""How well a policy writes: accuracy under the true prefix and on its own, cross-entropy, success, and search."""

from ntp_envs.evaluation.evaluate import evaluate
from ntp_envs.evaluation.result import Evaluation, SampleText

__all__ = ["Evaluation", "SampleText", "evaluate"]
