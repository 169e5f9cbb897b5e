"""Neural next-token predictors and the one loop that trains them. Needs the extra ``neural``.

`NetworkClass` says what network (linear, MLP or a small transformer), `NeuralBC` trains it under the contract of
`agents.Agent`, and `TorchPolicy` is what comes out: an `ntp_envs.Policy`. `NeuralRhoBC`, `NeuralClippedRatioBC` and
`NeuralJSDPlusTVBC` train on whole sequences instead of next tokens, `NeuralDistillation` on the expert's laws at the
student's own prefixes. `ModulePolicy` takes a model of your own, and
`agents.neural.language.TransformersClass` makes a class of a model of transformers, to be trained (extra ``lm``).
"""

try:
    import torch
except ImportError as error:
    raise ImportError(
        f"agents.neural needs torch, which the extra 'neural' brings: pip install \"ntp-envs[neural]\" ({error})."
    ) from error

from agents.neural.agent import NeuralBC
from agents.neural.distillation import NeuralDistillation
from agents.neural.network import ARCHITECTURES, ModulePolicy, NetworkClass, TorchPolicy
from agents.neural.sequence_level import NeuralClippedRatioBC, NeuralJSDPlusTVBC, NeuralRhoBC
from agents.neural.training import MODES, CheckpointError

del torch

__all__ = [
    "ARCHITECTURES",
    "MODES",
    "CheckpointError",
    "ModulePolicy",
    "NetworkClass",
    "NeuralBC",
    "NeuralClippedRatioBC",
    "NeuralDistillation",
    "NeuralJSDPlusTVBC",
    "NeuralRhoBC",
    "TorchPolicy",
]
