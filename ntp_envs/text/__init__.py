"""Real text: where it comes from, its symbols, and how well a policy predicts it."""

from ntp_envs.policies import EndedPolicy
from ntp_envs.text.corpus import TextData, TextPart, load_bytes, load_data, load_text
from ntp_envs.text.score import BitsPerChar, text_log_probs
from ntp_envs.text.vocabulary import UnknownTokensWarning, Vocabulary, split_words

__all__ = [
    "BitsPerChar",
    "EndedPolicy",
    "TextData",
    "TextPart",
    "UnknownTokensWarning",
    "Vocabulary",
    "load_bytes",
    "load_data",
    "load_text",
    "split_words",
    "text_log_probs",
]
