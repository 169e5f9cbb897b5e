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
    for replicate in range(options.seeds):
        of_networks = {"text": texts[NETWORKS], "n": options.network_n, "draws": options.draws, "replicate": replicate}
        training = {"steps": options.network_steps, "batch_size": options.network_batch}
        for learner in TRAINED if networks else ():
            yield Cell(NETWORKS, trained, {**of_networks, "learner": learner, **training}, scratch=True)
        shown = {"text": texts[MAIN], "n": options.n, "draws": options.draws, "replicate": replicate}
        for kind, size in reversed(learners(options, networks=networks)):
            cell = {**shown, "kind": kind, "size": size, "network": network if kind == MLP else {}}
            yield Cell(MAIN, drift, cell, scratch=True)
        for H in sorted(options.dial_horizons, reverse=True):
            cell = {"text": texts[DIAL], "H": H, "n": options.dial_n, "draws": options.draws, "replicate": replicate}
            yield Cell(DIAL, dial, {**cell, "chunks": list(options.chunks)})
        yield Cell(NETWORKS, untrained, of_networks)
    yield Cell(MAIN, references, {"text": texts[MAIN]})
