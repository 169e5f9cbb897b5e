"""Learners that visit prefixes of their own: with the expert to ask (interactive), or without (on-policy)."""

from agents.interactive import ngram_projection  # noqa: F401 - teaches `project` the class
from agents.interactive.adversarial import AdversarialImitation, Discriminator
from agents.interactive.base import InteractiveAgent, Session
from agents.interactive.dagger import DAgger
from agents.interactive.distillation import OnPolicyDistillation
from agents.interactive.forward_training import ForwardTraining, LayeredAutomaton
from agents.interactive.labels import Labels
from agents.interactive.projection import project
from agents.interactive.scheduled_sampling import ScheduledSampling, truth_probability

__all__ = [
    "AdversarialImitation",
    "DAgger",
    "Discriminator",
    "ForwardTraining",
    "InteractiveAgent",
    "Labels",
    "LayeredAutomaton",
    "OnPolicyDistillation",
    "ScheduledSampling",
    "Session",
    "project",
    "truth_probability",
]
