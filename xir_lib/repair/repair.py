"""A repair: what is done to a finished encoder's vectors and rankings, and what it was fitted on.

This is the one object that commands, evaluations and cards hand around. It says whether a task
allows it, changes vectors, names the folder of its results, and gives what identifies them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xir_lib.data.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.repair.fit import FITS, Shifted, centred, check_fit, own_texts
from xir_lib.repair.kinds import CENTRING, KINDS, parse_kind, result_folder

if TYPE_CHECKING:
    from xir_lib.encoders.encoder import Encoder


@dataclass(frozen=True)
class Repair:
    """A kind of `kinds.KINDS` and where its means come from: a name of `fit.FITS`.

    >>> repair = Repair("centring+round-robin", "corpus")
    >>> repair.centres, repair.merges, repair.folder
    (True, True, 'centring+round-robin-corpus')
    >>> repair.unmerged.folder, Repair("round-robin", "corpus").folder, Repair().folder
    ('centring-corpus', 'round-robin', '')
    """

    kind: str = "none"
    fit: str = FITS[0]
    fit_on: tuple[RetrievalTask, ...] = ()  # the first that has a language gives its texts
    fit_texts: int | None = None  # at most so many per language and side

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        found = parse_kind(self.kind)
        if found.lexical:
            raise InputError(f"{self.kind} is a system, no repair; use --model {self.kind}")
        if found.removed:
            raise InputError(
                f"repair {self.kind!r} was removed and can only be read; use {', '.join(KINDS)}"
            )
        if self.fit not in FITS:
            raise InputError(f"unknown fit {self.fit!r}; use {', '.join(FITS)}")

    @property
    def centres(self) -> bool:
        """Whether it takes the languages' means out of the vectors, which needs a fit."""
        return parse_kind(self.kind).shift is not None

    @property
    def merges(self) -> bool:
        """Whether it merges the rankings of the single languages."""
        return parse_kind(self.kind).merge is not None

    @property
    def unmerged(self) -> "Repair":
        """What is done before the merge."""
        kind = CENTRING if self.centres else "none"
        return Repair(kind, self.fit, self.fit_on, self.fit_texts)

    @property
    def folder(self) -> str:
        """The folder of its results inside the plain ones'."""
        return result_folder(self.kind, self.fit)

    def check(self, task: RetrievalTask) -> None:
        """Refuse a task that lacks texts for the fit, before anything is encoded."""
        if self.centres:
            check_fit(task, self.fit, self.fit_on)

    def apply(
        self, encoder: "Encoder", task: RetrievalTask
    ) -> tuple[list[Shifted], dict[str, Any] | None]:
        """Return a task's vectors without the languages' means, and what those were fitted on.

        In one part, or one per fold of `cross-fit`. Without centring the vectors are as they are,
        and nothing was fitted. Merging is done on ranks, later.
        """
        if self.centres:
            return centred(encoder, task, self.fit, self.fit_on, self.fit_texts)
        queries, passages = (own_texts(encoder, task, side) for side in ("queries", "passages"))
        return [Shifted(np.arange(len(queries.ids)), queries.vectors, passages.vectors)], None
