"""The study's typed parameters, and the steps that the Snakefile and the notebooks call.

A profile (`params/*.yaml`) is one `Study`. Its steps are files in a build folder: `prepare` writes
the training pairs and the tasks, `training.train` a model per run, `evaluation.evaluate` its
scores, `collect` gathers them into the small tables from which every figure, table and claim is
computed without a model.
"""

import logging
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from xir_lib.data import miracl
from xir_lib.data.tasks import TASKS
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError, explain
from xir_lib.paths import require
from xir_lib.repair.kinds import parse_kind
from xir_lib.training.cost import Mixture
from xir_lib.training.settings import (
    TrainSettings,
    parse_strategy,
)

log = logging.getLogger(__name__)


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


class Evaluation(_Strict):
    """One task, and where the means of rivals such as centring come from."""

    task: str
    languages: list[str] | None = None
    fit: Literal["foreign", "corpus", "cross-fit"] = Field(
        "foreign", description="what `xir evaluate --fit` takes"
    )
    fit_on: list[str] = Field([])
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
    rivals: list[str] = Field(
        ["none", "centring"],
        validation_alias=AliasChoices("repairs", "rivals"),
        description="repairs, as `xir evaluate --repair` takes them, and BM25; also `repairs:`",
    )
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
            fitted = [r for r in self.rivals if parse_kind(r).shift]
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
        return TrainSettings.checked(
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
