"""The study's typed parameters, and the steps that the Snakefile and the notebooks call.

A profile (`params/*.yaml`, read by `variations`) is one `Study`. Its steps are files in a build
folder: `prepare` writes the training pairs and the tasks, `training.train` a model per run,
`evaluation.evaluate` its scores, `collect` gathers them into the small tables from which every
figure, table and claim is computed without a model.
"""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from xir_lib.data import miracl
from xir_lib.data.tasks import TASKS
from xir_lib.encoders.precision import Asked
from xir_lib.errors import InputError, explain
from xir_lib.repair.kinds import parse_kind
from xir_lib.study.variations import profile_path, read_profile
from xir_lib.training.cost import Mixture
from xir_lib.training.settings import TrainSettings, parse_strategy

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

    @model_validator(mode="after")
    def _consistent(self) -> "Evaluation":
        if self.fit_on and self.fit == "cross-fit":
            raise InputError(
                f"fit: cross-fit on {self.task} takes its texts from the task itself;"
                " leave out fit_on"
            )
        if wrong := [name for name in self.fit_on if name not in TASKS or name == self.task]:
            raise InputError(
                f"fit_on of {self.task} holds {wrong[0]!r}; use another one of {', '.join(TASKS)}"
            )
        if self.task in miracl.TASKS:
            raise InputError(
                f"evaluations holds {self.task}, which has one language; name it under corpora"
            )
        if self.languages is not None and len({*self.languages}) < 2:
            named = ", ".join(self.languages) or "none"
            raise InputError(
                f"languages of {self.task}: {named}; name two or more, or leave them out"
            )
        return self

    def gives_too_little_to(self, other: "Evaluation") -> bool:
        """Say whether this task, which is saved in the languages in which it is judged, lacks some
        of another one that takes its means from it.
        """
        if self.task not in other.fit_on or self.languages is None:
            return False
        return other.languages is None or not {*other.languages} <= {*self.languages}


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

    @field_validator("strategies", "seeds", "rivals", "corpora")
    @classmethod
    def _each_once(cls, value: list[Any], info: ValidationInfo) -> list[Any]:
        _refuse_twice(str(info.field_name), value)
        return value

    @field_validator("train")
    @classmethod
    def _the_same_for_all(cls, value: dict[str, Any]) -> dict[str, Any]:
        if given := value.keys() & {"strategy", "seed"}:
            raise InputError(
                f"train holds {', '.join(given)}; these come from strategies and seeds"
            )
        return value

    @field_validator("variants")
    @classmethod
    def _named_and_new(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in value.items():
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
        return value

    @field_validator("evaluations")
    @classmethod
    def _serve_one_another(cls, value: list[Evaluation]) -> list[Evaluation]:
        _refuse_twice("tasks", [evaluation.task for evaluation in value])
        for served, source in product(value, value):
            if source.gives_too_little_to(served):
                raise InputError(
                    f"{source.task} gives means to {served.task} and is judged in"
                    f" {', '.join(source.languages or [])} alone; leave out its languages or name"
                    " another source in fit_on"
                )
        return value

    @field_validator("rivals")
    @classmethod
    def _with_none(cls, value: list[str]) -> list[str]:
        if "none" not in value:
            raise InputError("rivals lacks none; the plain evaluation is always made")
        return value

    @field_validator("corpora")
    @classmethod
    def _of_one_language(cls, value: list[str]) -> list[str]:
        if wrong := [name for name in value if name not in miracl.TASKS or name.count("-") > 1]:
            raise InputError(f"corpora holds {wrong[0]!r}; use miracl-LANG, such as miracl-yo")
        return value

    @model_validator(mode="after")
    def _strategies_and_variants(self) -> "Study":
        if unused := [name for name in self.variants if name not in self.strategies]:
            raise InputError(
                f"variant {unused[0]!r} is not among the strategies {', '.join(self.strategies)};"
                " add or remove it"
            )
        for name in self.strategies:
            if name not in self.variants:
                parse_strategy(name)
        if len(self.strategies) > 1 and any(
            "early_stopping" in given for given in (self.train, *self.variants.values())
        ):
            raise InputError(
                f"early_stopping in a comparison of {len(self.strategies)} strategies, which get"
                " equal steps; leave it out or name one strategy"
            )
        return self

    @model_validator(mode="after")
    def _rivals_and_corpora(self) -> "Study":
        if self.mixed and not self.corpora:
            raise InputError(
                "mixed needs corpora among whose passages foreign ones go; name one, such as"
                " miracl-yo"
            )
        fitted = [name for name in self.rivals if parse_kind(name).shift]
        for evaluation in self.evaluations:
            if fitted and not evaluation.fit_on and evaluation.fit != "cross-fit":
                raise InputError(
                    f"{fitted[0]} on {evaluation.task} needs fit_on, other tasks whose texts give"
                    " the means, or fit: cross-fit"
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


def load_study(path: str | Path) -> Study:
    """Read a profile, by its file or its name; a wrong name or value is refused in one line."""
    path = profile_path(path)
    values = read_profile(path)
    if (folder := Path(str(values.get("encoder")))).is_dir():
        values["encoder"] = str(folder.resolve())  # steps run in other folders
    try:
        study = Study.model_validate(values)
        for strategy in study.strategies:
            study.settings(strategy, 0)
        return study
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from error


def _refuse_twice(what: str, names: Sequence[Any]) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"{what} holds a name twice: {', '.join(map(str, names))}; name each once")


def _is_strategy(name: str) -> bool:
    try:
        parse_strategy(name)
    except InputError:
        return False
    return True
