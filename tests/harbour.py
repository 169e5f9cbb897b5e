"""A small text of our own, for the tests of the text task. Not a test module."""

import math
from pathlib import Path

FILES = Path(__file__).parent / "data"
HARBOUR = str(FILES / "harbour.txt")
SMALL = {"corpus": HARBOUR, "horizon": 12, "prompt_length": 4, "expert_order": 3}


def train_and_held_out(share=0.1, lower=True):
    text = Path(HARBOUR).read_text(encoding="utf-8")
    text = text.lower() if lower else text
    cut = len(text) - math.floor(share * len(text))
    return text[:cut], text[cut:]
