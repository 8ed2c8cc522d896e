"""Tasks by name: what `--task` takes."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from xir_lib.data import belebele, lareqa, miracl, mlqa
from xir_lib.data.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.paths import named

TASKS = (
    *lareqa.TASKS,
    *lareqa.WITH_CONTEXT,
    "atlas-qa",
    "atlas-qa-dev",
    "atlas-qa-train",
    *belebele.TASKS,
    *miracl.TASKS,
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
        from xir_lib.data import atlas

        return atlas.load_task(name.removeprefix("atlas-qa").removeprefix("-") or "test", languages)
    if Path(name).is_dir():
        if languages is not None:
            raise InputError(
                f"languages cannot be chosen for a saved task, {name}; save it with fewer"
            )
        from xir_lib.data import beir

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
