"""The study's typed parameters, and the steps that the Snakefile and the notebooks call.

A profile (`params/*.yaml`) is one `Study`. Its steps are files in a build folder: `prepare` writes
the training pairs and the tasks, `training.train` a model per run, `evaluation.evaluate` its
scores, `collect` gathers them into the small tables from which every figure, table and claim is
computed without a model.
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xir_lib.bias import RANK_DISTANCE
from xir_lib.corpora import belebele, lareqa, miracl, mlqa
from xir_lib.corpora.pairs import join
from xir_lib.corpora.records import PairTable, RetrievalTask, is_saved_task
from xir_lib.corpora.splits import pair_counts, split_by_group
from xir_lib.errors import InputError
from xir_lib.held_out import held_out_task
from xir_lib.metrics import CELL, SETTINGS
from xir_lib.overlap import near_ids, overlap
from xir_lib.paths import is_build, named, refuse_foreign, replace_folder, require
from xir_lib.precision import Asked
from xir_lib.rivals import parse_rival, result_folder
from xir_lib.run_record import write_json
from xir_lib.samplers import PairIndex, Strategy, StrategyBatchSampler
from xir_lib.train_settings import TrainSettings, batches_of, parse_strategy, pivot_of, trained_on

log = logging.getLogger(__name__)

PRINTED = pd.DataFrame(  # the measures of the paper's tables
    [
        *((setting, "mAP") for setting in SETTINGS),
        *((setting, "R@1") for setting in SETTINGS[:2]),
        (SETTINGS[2], "R@10"),
        (SETTINGS[2], RANK_DISTANCE),
    ],
    columns=["setting", "measure"],
)

BY_GROUP = ("mAP", RANK_DISTANCE)  # measures whose differences get intervals

TASKS = (
    *lareqa.TASKS,
    *lareqa.WITH_CONTEXT,
    "atlas-qa",
    "atlas-qa-dev",
    "atlas-qa-train",
    *belebele.TASKS,
    *miracl.TASKS,
)

HELD_OUT = "held-out"  # in a profile: its held-out pairs as a task, to choose settings by

NO_PROFILES = (  # what figures/ holds besides profiles, miracl-LANG and mixed-LANG
    "averaged",
    "bias_card",
    "claims",
    "context",
    "fit_curve",
    "low_resource_again",
    "stock",
    "when_hybrid",
)

# other text in a task's languages, for the means of `centring` and `lir-R` where a command names
# none
FIT_ON = {
    "xquad-r": ["mlqa-r", "atlas-qa-train"],
    "xquad-r-test": ["mlqa-r", "atlas-qa-train"],
    "mlqa-r": ["xquad-r"],
    "xquad-r-context": ["mlqa-r-context", "atlas-qa-train"],
    "xquad-r-test-context": ["mlqa-r-context", "atlas-qa-train"],
    "mlqa-r-context": ["xquad-r-context"],
    "atlas-qa": ["atlas-qa-train"],
}
OWN_PAIRS: dict[
    str, Any
] = {  # settings for pairs without a profile; as in params/small.yaml, steps are one pass
    "strategy": "hybrid-0.5",
    "seed": 0,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "temperature": 0.02,
    "max_seq_length": 128,  # what the shortest of the common multilingual encoders can read
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainData(_Strict):
    """Which pairs are trained on, and which are held out of them."""

    source: Literal[
        "atlas-qa",
        "mlqa-core",
        "mlqa-core-matched",
        "mlqa-core-matched-apart",
        "mlqa-core-matched+atlas-qa",
        "mlqa-ragged",
        "belebele-train",
        "xquad-r-train",
    ]
    languages: list[str]
    held_out_share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="share of the ids held out, by group; Atlas-QA uses its dev split",
    )
    split_seed: int = Field(
        0,
        description=(
            "another than 0 for belebele-train, whose groups are those that seed 0 has kept"
        ),
    )


class MixedSet(_Strict):
    """One data set of a mixture."""

    name: str
    pairs: int = Field(gt=0, description="per language")
    languages: list[str] = Field(min_length=1)


class Mixture(_Strict):
    """The paper's training data by its sizes. Only mMARCO has a loader here, so this can be
    estimated, not trained on.
    """

    source: Literal["mixture"]
    datasets: list[MixedSet] = Field(min_length=2)
    query_tokens: float = Field(
        gt=0, description="mean per query, prefix and special tokens included"
    )
    passage_tokens: float = Field(gt=0, description="the same per passage")

    @model_validator(mode="after")
    def _distinct(self) -> "Mixture":
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise InputError(f"datasets holds a name twice: {', '.join(names)}; name each once")
        return self

    @property
    def pairs(self) -> int:
        """Return the pairs of all data sets, each counted once for all its languages."""
        return sum(dataset.pairs for dataset in self.datasets)


class Evaluation(_Strict):
    """One task, and where the means of rivals such as centring come from."""

    task: str
    languages: list[str] | None = None
    fit: Literal["foreign", "corpus", "cross-fit"] = Field(
        "foreign", description="what `xir evaluate --fit` takes"
    )
    fit_on: list[str] = []
    fit_texts: int | None = Field(
        None, gt=0, description="texts per language and role for the means"
    )
    exploratory: bool = Field(
        False, description="judged too, but outside the profile's declared family of tests"
    )

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (*TASKS, HELD_OUT):
            raise InputError(f"unknown task {value!r}; use {', '.join(TASKS)} or {HELD_OUT}")
        return value


class Study(_Strict):
    """Everything a profile decides. Names are those of the YAML file; unknown ones are refused."""

    profile: str
    encoder: str
    data: TrainData | Mixture = Field(discriminator="source")
    strategies: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(min_length=1)
    train: dict[str, Any] = Field(
        description="the remaining TrainSettings, the same for every strategy"
    )
    variants: dict[str, dict[str, Any]] = Field(
        {},
        description=(
            "names that strategies may hold besides the known ones: a strategy with settings of"
            " its own"
        ),
    )
    evaluations: list[Evaluation] = Field(min_length=1)
    rivals: list[str] = Field(["none", "centring"], description="what `xir evaluate --rival` takes")
    corpora: list[str] = Field(
        [], description="MIRACL corpora on which every model is judged besides, outside the tables"
    )
    mixed: bool = Field(
        False,
        description="also what foreign passages among these corpora do to the first seed's models",
    )
    untrained: bool = Field(
        False, description="also score the architecture with freshly drawn weights, as a check"
    )
    precision: Asked = Field("auto", description="what `xir evaluate --precision` takes")
    resamples: int = Field(
        10_000, gt=99, description="of the bootstrap and of the randomisation test"
    )
    report_seed: int = Field(0, ge=0)

    @field_validator("profile")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        """Refuse a profile whose folders, which are replaced, would be somebody else's."""
        if not re.fullmatch("[a-z0-9][a-z0-9_.-]{0,63}", value) or ".." in value:
            raise InputError(
                f"{value[:70]!r} cannot name a folder; use a-z, 0-9, dots (not two), dashes and"
                " underscores, at most 64, a letter or digit first"
            )
        if value in NO_PROFILES or value.startswith(("miracl-", "mixed-")):
            raise InputError(
                f"{value!r} is a folder of figures/ that is no profile's; give it another name"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        for what, names in (
            ("strategies", self.strategies),
            ("seeds", self.seeds),
            ("rivals", self.rivals),
            ("tasks", [evaluation.task for evaluation in self.evaluations]),
            ("corpora", self.corpora),
        ):
            if len(set(names)) < len(names):
                raise InputError(
                    f"{what} holds a name twice: {', '.join(map(str, names))}; name each once"
                )
        for name, changes in self.variants.items():
            if name not in self.strategies:
                raise InputError(
                    f"variant {name!r} is not among the strategies {', '.join(self.strategies)};"
                    " add or remove it"
                )
            if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", name) or re.search(r"-s\d+$", name):
                raise InputError(
                    f"variant {name!r} cannot name a folder; use a-z, 0-9, dots and dashes, no -s0"
                    " at the end"
                )
            if name in ("none", "untrained") or _is_strategy(name):
                raise InputError(
                    f"variant {name!r} has the name of something known; give it another one"
                )
            if "strategy" not in changes or "seed" in changes:
                raise InputError(
                    f"variant {name!r} holds {', '.join(changes) or 'nothing'}; it needs strategy"
                    " and no seed"
                )
        for name in self.strategies:
            if name not in self.variants:
                parse_strategy(name)
        if given := self.train.keys() & {"strategy", "seed"}:
            raise InputError(
                f"train holds {', '.join(given)}; these come from strategies and seeds"
            )
        if len(self.strategies) > 1 and any(
            "early_stopping" in given for given in (self.train, *self.variants.values())
        ):
            raise InputError(
                f"early_stopping in a comparison of {len(self.strategies)} strategies, which get"
                " equal steps; leave it out or name one strategy"
            )
        if wrong := [
            name for name in self.corpora if name not in miracl.TASKS or name.count("-") > 1
        ]:
            raise InputError(f"corpora holds {wrong[0]!r}; use miracl-LANG, such as miracl-yo")
        if self.mixed and not self.corpora:
            raise InputError(
                "mixed needs corpora among whose passages foreign ones go; name one, such as"
                " miracl-yo"
            )
        if "none" not in self.rivals:
            raise InputError("rivals lacks none; the plain evaluation is always made")
        for evaluation in self.evaluations:
            fitted = [r for r in self.rivals if parse_rival(r).rank is not None]
            if fitted and not evaluation.fit_on and evaluation.fit != "cross-fit":
                raise InputError(
                    f"{fitted[0]} on {evaluation.task} needs fit_on, other tasks whose texts give"
                    " the means, or fit: cross-fit"
                )
            if evaluation.fit_on and evaluation.fit == "cross-fit":
                raise InputError(
                    f"fit: cross-fit on {evaluation.task} takes its texts from the task itself;"
                    " leave out fit_on"
                )
            if wrong := [
                name for name in evaluation.fit_on if name not in TASKS or name == evaluation.task
            ]:
                raise InputError(
                    f"fit_on of {evaluation.task} holds {wrong[0]!r}; use another one of"
                    f" {', '.join(TASKS)}"
                )
            if evaluation.task in miracl.TASKS:
                raise InputError(
                    f"evaluations holds {evaluation.task}, which has one language; name it under"
                    " corpora"
                )
            if evaluation.languages is not None and len({*evaluation.languages}) < 2:
                named = ", ".join(evaluation.languages) or "none"
                raise InputError(
                    f"languages of {evaluation.task}: {named}; name two or more, or leave them out"
                )
            for (
                other
            ) in self.evaluations:  # a task is saved once, in the languages in which it is judged
                lacking = {*(evaluation.languages or [])} - {*(other.languages or [])}
                if (
                    other.task in evaluation.fit_on
                    and other.languages is not None
                    and (lacking or not evaluation.languages)
                ):
                    raise InputError(
                        f"{other.task} gives means to {evaluation.task} and is judged in"
                        f" {', '.join(other.languages)} alone; leave out its languages or name"
                        " another source in fit_on"
                    )
        return self

    def settings(self, strategy: str, seed: int, **changes: Any) -> TrainSettings:
        """Return the settings of one training run, with changes by name; a wrong value is refused
        in one line.
        """
        return _settings(
            **{
                **self.train,
                **self.variants.get(strategy, {"strategy": strategy}),
                "seed": seed,
                **changes,
            }
        )

    @property
    def runs(self) -> list[str]:
        """Names of all models that are scored: `none`, perhaps `untrained`, then
        `STRATEGY-sSEED`.
        """
        trained = [f"{strategy}-s{seed}" for strategy in self.strategies for seed in self.seeds]
        return ["none", *(["untrained"] if self.untrained else []), *trained]


class Results(NamedTuple):
    """What `collect` gathered: one record per model, one per evaluation, the sums per group, and
    `overlap.overlap` per task.
    """

    study: Study
    runs: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    group_sums: pd.DataFrame
    overlap: dict[str, dict[str, int]]


def load_study(path: Path) -> Study:
    """Read a profile; a wrong name or value is refused in one line."""
    path = require(Path(path), "give a profile such as params/demo.yaml")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a profile such as params/demo.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InputError(
                f"{path} holds {type(values).__name__}; a profile is a mapping such as"
                " params/demo.yaml"
            )
        if (folder := Path(str(values.get("encoder")))).is_dir():
            values["encoder"] = str(folder.resolve())  # steps run in other folders
        study = Study.model_validate(values)
        for strategy in study.strategies:
            study.settings(strategy, 0)
        return study
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from error


def _is_strategy(name: str) -> bool:
    try:
        parse_strategy(name)
    except InputError:
        return False
    return True


def _settings(**values: Any) -> TrainSettings:
    try:
        return TrainSettings(**values)
    except ValidationError as error:
        raise InputError(f"training: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Turn pydantic's report into one line: where, what is wrong, what arrived."""
    first = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = ".".join(map(str, first["loc"])) or "value"
    if first["type"] == "value_error":  # of our own checks, which say what arrived
        return f"{where}: {first['msg'].removeprefix('Value error, ')}{more}"
    return f"{where}: {first['msg']}, got {str(first['input'])[:60]!r}{more}"


def load_task(name: str, languages: list[str] | None = None) -> RetrievalTask:
    """Return a task by name (`TASKS`), from a folder that `RetrievalTask.save` wrote, or from a
    BEIR folder with languages.
    """
    alone = name.removesuffix(lareqa.CONTEXT)
    if alone in lareqa.TASKS:
        split = "test" if alone.endswith("-test") else None
        return lareqa.load_task(
            alone.removesuffix("-test"), languages, split=split, context=alone != name
        )
    if name in belebele.TASKS:
        return belebele.load_task(languages, **belebele.TASKS[name])
    if name in miracl.TASKS:
        lang, _, variant = name.removeprefix("miracl-").partition("-")
        if languages not in (None, [lang]):
            raise InputError(
                f"{name} has the one language {lang!r}, {languages} asked for; leave languages out"
            )
        return (
            miracl.load_hard_task(lang)
            if variant == "hard"
            else miracl.load_task(lang, titles=variant != "untitled")
        )
    if name in TASKS:
        from xir_lib.corpora import atlas

        return atlas.load_task(name.removeprefix("atlas-qa").removeprefix("-") or "test", languages)
    if Path(name).is_dir():
        if languages is not None:
            raise InputError(
                f"languages cannot be chosen for a saved task, {name}; save it with fewer"
            )
        from xir_lib.corpora import beir

        folder = named(name)  # it becomes the task's
        return beir.load_task(folder) if beir.is_beir(folder) else RetrievalTask.load(folder)
    raise InputError(
        f"unknown task {name!r}; use {', '.join(TASKS)}, the folder of a saved task or a BEIR"
        " folder"
    )


def load_paragraphs(names: Sequence[str]) -> pa.Table:
    """Return the passages of several sources as one table: xquad-contexts, mlqa-contexts, or what
    `load_task` takes.
    """
    known = {
        "xquad-contexts": lambda: lareqa.load_paragraphs("xquad-r"),
        "mlqa-contexts": mlqa.load_paragraphs,
    }
    return pa.concat_tables(
        [known[name]() if name in known else load_task(name).passages for name in names]
    )


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
    from xir_lib.corpora import atlas

    return atlas.load_pairs("train", languages), atlas.load_pairs("dev", languages)


def _matched(languages: list[str]) -> PairTable:
    """Return MLQA's core ids without questions that have no passage in their language, and the
    reverse.
    """
    pairs = mlqa.core(mlqa.load_pairs(), languages, query_langs=languages)
    both = pc.and_(pc.is_valid(pairs.table["query"]), pc.is_valid(pairs.table["passage_id"]))
    return PairTable(pairs.table.filter(both))


def load_own(paths: Sequence[Path], lang: str | None = None) -> tuple[PairTable, PairTable | None]:
    """Return a user's pairs to train on, and a tenth of them held out by group; several files are a
    data set each.

    A language with too few held-out ids for a batch is not judged. Pairs too few to give held-out
    batches of every kind are all trained on, with a warning: a held-out loss is a courtesy and no
    reason to refuse a training.
    """
    from xir_lib.corpora.pairs import load_pairs

    tables = [load_pairs(path, lang=lang) for path in paths]
    names = [Path(path).name.split(".")[0] for path in paths]
    if len(set(names)) < len(names):
        raise InputError(
            f"two data sets have one name: {', '.join(names)}; give the files different ones"
        )
    pairs = tables[0] if len(tables) == 1 else join(dict(zip(names, tables, strict=True)))
    grouped = _grouped_by_passage(pairs)
    try:
        train, held_out = split_by_group(grouped, 0.1, 0)
        index = PairIndex.from_table(held_out)
        offered = (index.has_query & index.servable()).sum(axis=0)  # ids of each language
        judged = [
            name
            for name, ids in zip(index.languages, offered, strict=True)
            if name in train.languages and not 0 < ids < 16
        ]
        if not judged:
            raise InputError(
                f"the tenth has {', '.join(map(str, offered))} ids in its languages, 16 are needed"
                " in one"
            )
        held_out = held_out.select(languages=judged)
        index = PairIndex.from_table(held_out)
        for strategy in (Strategy.X_X_MONO, Strategy.X_Y)[
            : len(index.languages)
        ]:  # as in `held_out.held_out_loss`
            StrategyBatchSampler(
                index, strategy=strategy, batch_size=16, seed=0, num_batches=8
            ).plan()
        return train, held_out
    except InputError as error:
        log.warning(
            "%s: all pairs are trained on and none held out (%s)", ", ".join(map(str, paths)), error
        )
        return pairs, None


def _grouped_by_passage(pairs: PairTable) -> PairTable:
    """Join the groups that share a passage's text, so that none stands on both sides of a split."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    table, passage = pairs.table, PairIndex.from_table(pairs).passage
    names, groups = (
        table[name].combine_chunks().dictionary_encode() for name in ("pair_id", "group")
    )
    id_of_row, group_of_row = names.indices.to_numpy(), groups.indices.to_numpy()
    having = np.nonzero(passage >= 0)[0]  # the ids, in order of appearance as in `names`
    ids = np.concatenate([id_of_row, having])
    things = np.concatenate([group_of_row, len(groups.dictionary) + passage[passage >= 0]])
    size = len(names.dictionary)
    edges = coo_array(
        (np.ones(len(ids), bool), (ids, size + things)), shape=(size + int(things.max()) + 1,) * 2
    )
    labels = connected_components(edges, directed=False)[1][:size]
    ascending = pc.sort_indices(names.dictionary).to_numpy()
    smallest = ascending[
        np.unique(labels[ascending], return_index=True)[1]
    ]  # (components,) the id that names it
    place = np.searchsorted(np.unique(labels), labels[id_of_row])
    named = names.dictionary.take(pa.array(smallest[place]))
    return PairTable(table.set_column(table.schema.get_field_index("group"), "group", named))


def own_settings(pairs: PairTable, **given: Any) -> TrainSettings:
    """Return the settings for a user's pairs without a profile: `OWN_PAIRS` and one pass over the
    ids, unless given.
    """
    settings = _settings(**{**OWN_PAIRS, "steps": 1, **given})
    if "steps" in given:
        return settings
    return settings.model_copy(update={"steps": max(1, len(pairs.pair_ids) // settings.batch_size)})


def with_early_stopping(settings: TrainSettings, measure: str) -> TrainSettings:
    """Return the settings with early stopping by `measure`: 20 measurements, and the end after 3
    without a new best.
    """
    stopping = {"measure": measure, "every": max(1, settings.steps // 20), "patience": 3}
    return _settings(**{**settings.model_dump(), "early_stopping": stopping})


def preview(
    encoder: str,
    settings: TrainSettings,
    data: PairTable | Mixture,
    held_out: PairTable | None = None,
) -> dict[str, Any]:
    """Return what `xir train` would do, as JSON values: settings, sizes of the data, the sampler's
    report and the cost.

    Of pairs that are here the tokens are measured on 500 rows; a mixture states them. The cost is
    that of the run, of 1,000 steps and of an epoch, each id once. No weights are read and nothing
    is written.
    """
    from xir_lib.cost import estimate, open_config, token_means

    config, source = open_config(encoder)
    sampler = None
    if isinstance(data, Mixture):
        ids, tokens, measured = data.pairs, (data.query_tokens, data.passage_tokens), False
        sizes = [
            {**member.model_dump(), "share_of_batches": member.pairs / data.pairs}
            for member in data.datasets
        ]
    else:
        data = trained_on(data, settings)
        sampler = batches_of(data, settings).report()
        ids, tokens, measured = (
            len(data.pair_ids),
            token_means(encoder, data, settings.max_seq_length, settings.prompts),
            True,
        )
        several = {f"of them {name}": table for name, table in data.datasets().items() if name}
        tables = {"train": data, **several, **({"held out": held_out} if held_out else {})}
        sizes = [{"name": name, **pair_counts(table)} for name, table in tables.items()]
    steps = {
        "this run": settings.steps,
        "1,000 steps": 1000,
        "one epoch": max(1, ids // settings.batch_size),
    }
    lengths: dict[str, Any] = dict(zip(("query_tokens", "passage_tokens"), tokens, strict=True))
    read = {"queries": 2 if settings.query_kl else 1, "passages": 1 + settings.negatives, **lengths}
    return {
        "encoder": encoder,
        "architecture": source,
        "settings": settings.model_dump(),
        "data": sizes,
        "sampler": sampler,
        "tokens": {**lengths, "measured": measured},
        "cost": {
            name: estimate(config, batch_size=settings.batch_size, steps=count, **read)
            for name, count in steps.items()
        },
    }


def batch_mix(
    pairs: PairTable, strategies: list[str], *, batch_size: int, batches: int, seed: int
) -> pd.DataFrame:
    """Return the share of same-language pairs in every batch of each strategy: columns strategy,
    batch, same_share.
    """
    index, frames = PairIndex.from_table(pairs), []
    for name in strategies:
        strategy, alpha = parse_strategy(name)
        sampler = StrategyBatchSampler(
            index,
            strategy=strategy,
            alpha=alpha,
            batch_size=batch_size,
            seed=seed,
            num_batches=batches,
            pivot=pivot_of(name),
        )
        plan = sampler.describe().assign(strategy=name)
        plan["same"] = plan["pairs"].where(plan["query_lang"] == plan["doc_lang"], 0)
        sums = plan.groupby(["strategy", "batch"])[["same", "pairs"]].sum()
        frames.append((sums["same"] / sums["pairs"]).rename("same_share").reset_index())
    return pd.concat(frames, ignore_index=True)


def prepare(study: Study, folder: Path) -> dict[str, Any]:
    """Write `train.arrow`, `held_out.arrow`, `tasks/NAME/` and `summary.json`; return the summary's
    counts.
    """
    folder = Path(folder)
    train, held_out = load_training(study.data)
    summary: dict[str, Any] = {
        "train": pair_counts(train),
        "held_out": pair_counts(held_out),
        "tasks": {},
    }
    train.save(folder / "train.arrow")
    held_out.save(folder / "held_out.arrow")
    for name, languages in _tasks(study).items():
        task = (
            held_out_task(held_out.select(languages=languages), name)
            if name == HELD_OUT
            else load_task(name, languages)
        )
        target = folder / "tasks" / name
        with replace_folder(target, is_saved_task) as temporary:
            task.save(temporary)
        summary["tasks"][name] = {
            "languages": task.languages,
            "queries": task.queries.num_rows,
            "ids": len(task.queries["pair_id"].unique()),
            "passages": task.passages.num_rows,
            "judgements": task.qrels.num_rows,
        }
    write_json(folder / "summary.json", summary)
    return summary


def _tasks(study: Study) -> dict[str, list[str] | None]:
    """Return the tasks that judge or give means, with their languages: of Atlas-QA, which has many,
    those that are asked.
    """
    wanted: dict[str, list[str] | None] = {}
    for evaluation in study.evaluations:
        for name in evaluation.fit_on:
            langs = evaluation.languages if name.startswith("atlas") else None
            before = wanted.get(name, [])
            wanted[name] = (
                None if langs is None or before is None else list(dict.fromkeys([*before, *langs]))
            )
    return wanted | {evaluation.task: evaluation.languages for evaluation in study.evaluations}


def search_overlap(study: Study, folder: Path) -> None:
    """Write `overlap.json` into the folder of `prepare`: for every task, how near its texts are to
    those trained on.
    """
    folder = Path(folder)
    train = PairTable.load(require(folder / "train.arrow", "run the data step first"))
    tasks = {
        evaluation.task: RetrievalTask.load(folder / "tasks" / evaluation.task)
        for evaluation in study.evaluations
    }
    write_json(
        folder / "overlap.json", {name: overlap(train, task) for name, task in tasks.items()}
    )


def evaluation_folders(study: Study, build: Path) -> dict[tuple[str, str, str], Path]:
    """Return the folder of each (run, task, rival); a rival's lies inside that of the plain
    evaluation.
    """
    return {
        (run, evaluation.task, rival): (
            build / "evaluations" / run / evaluation.task / result_folder(rival, evaluation.fit)
        )
        for run in study.runs
        for evaluation in study.evaluations
        for rival in study.rivals
    }


def collect(study: Study, build: Path, out: Path) -> None:
    """Gather the results of all runs into `study.json`, `runs.json`, `evaluations.json`,
    `overlap.json`, `group_sums.parquet`.

    Of the sums per group only what tables and figures are made of is kept, since the files are
    committed: the measures of `PRINTED`, of merged rankings the multilingual setting, and of
    measures that are never compared (`BY_GROUP`) the sum over all groups. An evaluation is a line.
    """
    build, out = Path(build), Path(out)
    refuse_foreign(build, is_build)
    evaluations, sums = [], []
    for (run, task, rival), folder in evaluation_folders(study, build).items():
        metrics = require(folder / "metrics.json", "run the evaluation step first")
        key = {"run": run, "strategy": run.rsplit("-s", 1)[0], "task": task, "rival": rival}
        found = json.loads(metrics.read_text(encoding="utf-8"))
        evaluations.append(
            {**key, **found, "model": study.encoder if run == "none" else run}
        )  # no path of this machine
        found_sums = pd.read_parquet(folder / "group_sums.parquet").merge(
            PRINTED, on=["setting", "measure"]
        )
        if parse_rival(rival).merge:  # pools of one language keep their ranking
            found_sums = found_sums[found_sums["setting"] == SETTINGS[-1]]
        by_group = found_sums["measure"].isin(BY_GROUP)
        whole = (
            found_sums[~by_group]
            .groupby([*CELL, "measure"], observed=True)[["n", "total"]]
            .sum()
            .reset_index()
        )
        sums.append(
            pd.concat([found_sums[by_group], whole.assign(group="all groups")]).assign(**key)
        )
    near = require(build / "data" / "overlap.json", "search for overlap first")
    trained = [
        build / "models" / run / "run.json"
        for run in study.runs
        if run not in ("none", "untrained")
    ]
    table = pd.concat(sums, ignore_index=True)
    for column in table.columns.difference(["n", "total"]):
        table[column] = table[column].astype("category")
    with replace_folder(out, lambda folder: is_build(folder.parent)) as temporary:
        temporary.mkdir()
        write_json(temporary / "study.json", study.model_dump())
        shutil.copy(near, temporary)
        write_json(
            temporary / "runs.json",
            [json.loads(path.read_text(encoding="utf-8")) for path in trained],
        )
        lines = (
            json.dumps(one, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            for one in evaluations
        )
        (temporary / "evaluations.json").write_text(
            "[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8"
        )
        table.astype({"n": "int32"}).to_parquet(
            temporary / "group_sums.parquet", index=False, compression="brotli"
        )
        shutil.rmtree(build / "figures", ignore_errors=True)  # the readers draw them anew


def load_results(folder: Path) -> Results:
    """Read what `collect` wrote."""
    folder = require(Path(folder), "run `make study` first, or name a folder under figures/")
    read = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("study", "runs", "evaluations", "overlap")
    }
    sums = pd.read_parquet(folder / "group_sums.parquet")
    return Results(Study(**read["study"]), read["runs"], read["evaluations"], sums, read["overlap"])
