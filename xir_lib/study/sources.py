"""The training pairs of a profile, by the name of their source."""

import pyarrow.compute as pc

from xir_lib.data import belebele, lareqa, mlqa
from xir_lib.data.overlap import near_ids
from xir_lib.data.readers import join
from xir_lib.data.records import PairTable
from xir_lib.data.splits import split_by_group
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError
from xir_lib.study.profile import TrainData
from xir_lib.training.cost import Mixture


def load_training(data: TrainData | Mixture) -> tuple[PairTable, PairTable]:
    """Return the pairs to train on and those held out, by group; a mixture is refused."""
    if isinstance(data, Mixture):
        names = ", ".join(dataset.name for dataset in data.datasets if dataset.name != "mMARCO")
        raise InputError(
            f"no loader here for {names}; train on pairs of your own with `xir train --pairs FILE`"
            " (xir_lib.corpora.mmarco.build makes such a file of mMARCO), or see the cost with"
            " --dry-run"
        )
    if data.source == "atlas-qa":
        return _atlas(data.languages)
    if (
        data.source == "mlqa-core-matched+atlas-qa"
    ):  # a batch comes from one of the two; MLQA's held-out pairs judge
        known = [lang for lang in data.languages if lang in mlqa.CORE_LANGUAGES]
        parts = [
            split_by_group(_matched(known), data.held_out_share, data.split_seed),
            _atlas(data.languages),
        ]
        train, held_out = (
            join(dict(zip(("mlqa", "atlas"), side, strict=True)))
            for side in zip(*parts, strict=True)
        )
        return train, held_out.datasets()["mlqa"]
    if data.source == "belebele-train":
        pairs = belebele.load_pairs(data.languages, split="train")
    elif data.source == "xquad-r-train":
        pairs = lareqa.load_pairs("xquad-r", data.languages, split="train")
    elif data.source == "mlqa-ragged":  # all ids, whatever they lack
        pairs = mlqa.load_pairs().select(languages=data.languages)
    elif data.source == "mlqa-core":
        pairs = mlqa.core(mlqa.load_pairs(), data.languages, query_langs=data.languages)
    else:
        pairs = _matched(data.languages)
    if (
        data.source == "mlqa-core-matched-apart"
    ):  # without what is near to a text of the tasks that judge
        near = set().union(*(near_ids(pairs, load_task(name)) for name in ("xquad-r", "mlqa-r")))
        pairs = pairs.select(pair_ids=[name for name in pairs.pair_ids if name not in near])
    return split_by_group(pairs, data.held_out_share, data.split_seed)


def _atlas(languages: list[str]) -> tuple[PairTable, PairTable]:
    from xir_lib.data import atlas

    return atlas.load_pairs("train", languages), atlas.load_pairs("dev", languages)


def _matched(languages: list[str]) -> PairTable:
    """Return MLQA's core ids without questions that have no passage in their language, and the
    reverse.
    """
    pairs = mlqa.core(mlqa.load_pairs(), languages, query_langs=languages)
    both = pc.and_(pc.is_valid(pairs.table["query"]), pc.is_valid(pairs.table["passage_id"]))
    return PairTable(pairs.table.filter(both))
