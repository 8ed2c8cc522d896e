"""Watch the three settings and the language bias during a training with sentence-transformers' own
trainer.

The measures are those of `evaluation.evaluate` (section 3 of arXiv 2408.10536): mAP over the full
ranking in the monolingual, cross-lingual and multilingual setting, and the rank distance of
parallel answers. Nothing but a CSV is kept. A task of a few hundred passages per language is enough
to watch; select one beforehand. Knows no training loop.

This is the one module besides `training_data` that imports sentence-transformers at once: its class
has a parent there.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sentence_transformers.base.evaluation import BaseEvaluator

from xir_lib.data.records import RetrievalTask, relevant_rows
from xir_lib.errors import InputError
from xir_lib.metrics import bias
from xir_lib.metrics import measures as metrics
from xir_lib.metrics import ranks as retrieval
from xir_lib.paths import atomic_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PRIMARY = "multilingual_mAP"


class MultilingualRetrievalEvaluator(BaseEvaluator):
    """Evaluator for `SentenceTransformerTrainer(evaluator=...)`; higher is better, the multilingual
    mAP counts.

    A call returns `{name}_monolingual_mAP`, `{name}_cross-lingual_mAP`, `{name}_multilingual_mAP`
    and `{name}_rank_distance` (in ranks, lower is better), without those that the task does not
    have. The model's modes and all random generators are left as they were: what is measured does
    not change the training. (That the stock trainer stops to evaluate does change it, whatever the
    evaluator.)

    Args:
        task: what is judged; `study.load_task` reads one by name or from a folder.
        name: begins every key and stands in the CSV's name; default the task's.
        prompts: what stands before a query and before a passage; default the model's own, else
        nothing.
        batch_tokens: see `encoders.encode`.
    """

    def __init__(
        self,
        task: RetrievalTask,
        *,
        name: str | None = None,
        prompts: tuple[str, str] | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.name = task.name if name is None else name
        self.prompts = prompts
        self.batch_tokens = batch_tokens
        self.primary_metric = f"{self.name}_{PRIMARY}" if self.name else PRIMARY
        self._queries = task.queries.to_pandas()
        self._doc_langs = np.searchsorted(
            task.languages, task.passages["lang"].to_numpy(zero_copy_only=False)
        )
        self._ties = retrieval.tie_order(task.passages["doc_id"].to_pylist())
        self._judged = relevant_rows(task)

    def __call__(  # type: ignore[override]  # only models that give one vector per text
        self,
        model: "SentenceTransformer",
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """Return the measures by name; with `output_path` also add a line to a CSV there, epoch and
        step first.
        """
        ranks = retrieval.relevant_ranks(
            *self._vectors(model), self._doc_langs, *self._judged, self._ties
        )
        means = metrics.macro(
            metrics.score_settings(ranks, self._queries, self.task.languages, measures=("mAP",))
        )
        found = {
            f"{setting}_mAP": means[setting]["mAP"]
            for setting in metrics.SETTINGS
            if setting in means
        }
        with contextlib.suppress(
            InputError
        ):  # no query has parallel answers: there is no such distance
            found["rank_distance"] = bias.rank_distance_summary(ranks, self._queries)["mean"]
        found = self.prefix_name_to_metrics(found, self.name)
        if output_path is not None:
            self._write(Path(output_path), {"epoch": epoch, "steps": steps, **found})
        self.store_metrics_in_model_card_data(model, found, epoch, steps)
        return found

    def _vectors(self, model: "SentenceTransformer") -> tuple[np.ndarray, np.ndarray]:
        from xir_lib.encoders.encode import ROLES, encode, prompts_of

        modes = [
            (module, module.training) for module in model.modules()
        ]  # a frozen part may be in another mode
        prompts = self.prompts or prompts_of(model)
        try:
            queries, passages = (
                encode(
                    model, table["text"], prompt=prompt, role=role, batch_tokens=self.batch_tokens
                )
                for table, prompt, role in zip(
                    (self.task.queries, self.task.passages), prompts, ROLES, strict=True
                )
            )
        finally:
            for module, mode in modes:
                module.training = mode
        return queries, passages

    def _write(self, folder: Path, row: dict[str, float]) -> None:
        path = (
            folder / f"multilingual_retrieval_evaluation{self.name and '_'}{self.name}_results.csv"
        )
        before = path.read_text(encoding="utf-8") if path.exists() else ",".join(row) + "\n"
        with atomic_path(path) as temporary:
            temporary.write_text(before + ",".join(map(str, row.values())) + "\n", encoding="utf-8")
