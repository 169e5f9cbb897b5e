"""The cells of the study: learners of the expert's text, and learners of text that is shuffled in part."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.networks import trains_networks
from experiments.studies.text.corpus import DIAL, MAIN, NETWORKS, checked_texts
from experiments.studies.text.drift import LINEAR, MLP, NGRAM, drift, references
from experiments.studies.text.options import TextOptions
from experiments.studies.text.shuffled import NETWORKS as TRAINED
from experiments.studies.text.shuffled import dial, trained, untrained
from experiments.study import Cell

__all__ = ["cells", "learners"]


def learners(options: TextOptions, *, networks: bool) -> list[tuple[str, int]]:
    """Kind and size of each learner of the first part."""
    found = [(NGRAM, order) for order in options.orders] + [(LINEAR, window) for window in options.windows]
    return [*found, (MLP, options.mlp_window)] if networks else found


def cells(options: TextOptions) -> Iterator[Cell]:
    """The slow cells first.

    Raises:
        ValueError: the text will not do, or networks are asked for and torch is missing; before anything is run.
    """
    networks = trains_networks(options.neural)
    texts = checked_texts(options)
    network = {"width": options.width, "steps": options.steps}
    of_networks = {"text": texts[NETWORKS], "n": options.network_n, "draws": options.draws}
    training = {"steps": options.network_steps, "batch_size": options.network_batch}
    shown = {"text": texts[MAIN], "n": options.n, "draws": options.draws}
    of_dial = {"text": texts[DIAL], "n": options.dial_n, "draws": options.draws, "chunks": list(options.chunks)}
    for replicate in range(options.network_seeds if networks else 0):
        for learner in TRAINED:
            cell = {**of_networks, "learner": learner, **training, "replicate": replicate}
            yield Cell(NETWORKS, trained, cell, scratch=True)
        mlp = {"kind": MLP, "size": options.mlp_window, "network": network}
        yield Cell(MAIN, drift, {**shown, **mlp, "replicate": replicate}, scratch=True)
    for replicate in range(options.seeds):
        for kind, size in reversed(learners(options, networks=False)):
            cell = {**shown, "kind": kind, "size": size, "network": {}, "replicate": replicate}
            yield Cell(MAIN, drift, cell, scratch=True)
        for H in sorted(options.dial_horizons, reverse=True):
            yield Cell(DIAL, dial, {**of_dial, "H": H, "replicate": replicate})
        yield Cell(NETWORKS, untrained, {**of_networks, "replicate": replicate})
    yield Cell(MAIN, references, {"text": texts[MAIN]})
