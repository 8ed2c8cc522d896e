"""The files of profiles: what a variation takes from its base, and a grid written out.

A profile of `params/` says everything itself. What differs from one in a few settings is a file of
`params/variations/`: `base:` names the profile whose top-level keys hold where the variation has
none (shallow, and one level deep, so that a reader opens two files at most), and `grid:` stands for
the `strategies` and `variants` of a table of settings. What is declared before a run is each file's
comment.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xir_lib.errors import InputError, explain
from xir_lib.paths import REPO, require

PARAMS = REPO / "params"
SUCH_AS = "a profile such as params/demo.yaml"


def profile_path(given: str | Path) -> Path:
    """Return the file of a profile that is named as `parallel` or `few_ids`, of `params/` or else
    of its variations; what has a slash or the suffix .yaml or .yml is a file already.

    The name is looked up among those that are there and never becomes part of a path.
    """
    name = str(given)
    if "/" in name or Path(given).suffix in (".yaml", ".yml"):
        return Path(given)
    known = _files(PARAMS / "variations") | _files(PARAMS)
    if name not in known:
        raise InputError(
            f"no profile {name[:70]!r} in params/ or params/variations/; use"
            f" {', '.join(sorted(known))}, or a file such as params/demo.yaml"
        )
    return known[name]


def read_profile(path: Path) -> dict[str, Any]:
    """Return what a profile's file says, its base and its grid written out."""
    require(path, f"give {SUCH_AS}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give {SUCH_AS}")
    values = _read(path)
    return _base(str(values.pop("base")), path) | values if "base" in values else values


class Grid(BaseModel):
    """Strategies times settings; each axis of `times` names settings, and none is always first.

    >>> grid = Grid(
    ...     strategies=["x-y"],
    ...     times=[{"slow": {"learning_rate": 5e-6}}, {"t.05": {"temperature": 0.05}}],
    ... )
    >>> list(grid.written_out()["variants"])
    ['x-y-t.05', 'x-y-slow', 'x-y-slow-t.05']
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategies: list[str] = Field(min_length=1)
    times: list[dict[Annotated[str, Field(min_length=1)], dict[str, Any]]] = Field(min_length=1)

    def written_out(self) -> dict[str, Any]:
        """Return the `strategies` and `variants` of a profile."""
        names, variants = [*self.strategies], {}
        for choice in product(*([("", {}), *axis.items()] for axis in self.times)):
            suffix = "".join(f"-{name}" for name, _ in choice if name)
            if not suffix:
                continue  # the strategies as they are, which are no variants
            settings = {name: value for _, given in choice for name, value in given.items()}
            for strategy in self.strategies:
                names.append(strategy + suffix)
                variants[strategy + suffix] = {"strategy": strategy} | settings
        return {"strategies": names, "variants": variants}


def _base(name: str, path: Path) -> dict[str, Any]:
    """Return what a variation takes from its base: all but the name, one level deep."""
    known = _files(PARAMS)
    if name not in known:
        raise InputError(f"{path}: unknown base {name[:70]!r}; use {', '.join(sorted(known))}")
    values = _read(known[name])
    if "base" in values:
        raise InputError(
            f"{path}: base {name!r} has a base itself, and one level is all; name another one"
        )
    return {key: value for key, value in values.items() if key != "profile"}


def _read(path: Path) -> dict[str, Any]:
    """Read one YAML file of a profile, with its grid written out."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise InputError(f"{path} holds {type(values).__name__}; give {SUCH_AS}, a mapping")
        if "repairs" in values and "rivals" not in values:  # one key, so that a base's is replaced
            values["rivals"] = values.pop("repairs")
        if "grid" in values:
            if both := values.keys() & {"strategies", "variants"}:
                raise InputError(
                    f"{path}: grid beside {', '.join(sorted(both))}, which it writes out; leave"
                    " one of them out"
                )
            values |= Grid.model_validate(values.pop("grid")).written_out()
        return values
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise InputError(f"{path}: grid: {explain(error)}") from error


def _files(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in folder.glob("*.yaml")}
