"""Watch the three settings and the language bias in a training with sentence-transformers' trainer.

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

from xir_lib.data.records import RetrievalTask
from xir_lib.errors import InputError
from xir_lib.metrics import bias
from xir_lib.metrics import measures as metrics
from xir_lib.metrics.ranks import relevant_ranks
from xir_lib.metrics.scores import vector_blocks
from xir_lib.paths import atomic_path

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PRIMARY = "multilingual_mAP"


class MultilingualRetrievalEvaluator(BaseEvaluator):
    """Evaluator for `SentenceTransformerTrainer(evaluator=...)`; the multilingual mAP counts.

        evaluator = MultilingualRetrievalEvaluator(load_task("atlas-qa"))
        SentenceTransformerTrainer(..., evaluator=evaluator)

    A call returns `{name}_monolingual_mAP`, `{name}_cross-lingual_mAP`, `{name}_multilingual_mAP`
    and `{name}_rank_distance` (in ranks, lower is better), without those that the task does not
    have. The model's modes and all random generators are left as they were: what is measured does
    not change the training. (That the stock trainer stops to evaluate does change it, whatever the
    evaluator.)

    Args:
        task: what is judged; `data.tasks.load_task` reads one by name or from a folder.
        name: begins every key and stands in the CSV's name; default the task's.
        prompts: what stands before a query and a passage; default the model's own, else nothing.
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

    def __call__(  # type: ignore[override]  # only models that give one vector per text
        self,
        model: "SentenceTransformer",
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """Return the measures by name; with `output_path` also add a line to a CSV there."""
        judged, queries = self.task.judged(), self.task.queries.to_pandas()
        ranks = relevant_ranks(vector_blocks(*self._vectors(model), judged), judged)
        per_query = metrics.score_settings(ranks, queries, self.task.languages, measures=("mAP",))
        means = metrics.macro(per_query)
        found = {f"{name}_mAP": means[name]["mAP"] for name in metrics.SETTINGS if name in means}
        with contextlib.suppress(InputError):  # no query has parallel answers: no such distance
            found["rank_distance"] = bias.rank_distance_summary(ranks, queries)["mean"]
        found = self.prefix_name_to_metrics(found, self.name)
        if output_path is not None:
            self._write(Path(output_path), {"epoch": epoch, "steps": steps, **found})
        self.store_metrics_in_model_card_data(model, found, epoch, steps)
        return found

    def _vectors(self, model: "SentenceTransformer") -> tuple[np.ndarray, np.ndarray]:
        from xir_lib.encoders.encode import ROLES, encode, prompts_of

        prompts, tokens = self.prompts or prompts_of(model), self.batch_tokens
        # A frozen part may be in another mode than the rest.
        modes = [(module, module.training) for module in model.modules()]
        try:
            queries, passages = (
                encode(model, table["text"], prompt=prompt, role=role, batch_tokens=tokens)
                for table, prompt, role in zip(
                    (self.task.queries, self.task.passages), prompts, ROLES, strict=True
                )
            )
        finally:
            for module, mode in modes:
                module.training = mode
        return queries, passages

    def _write(self, folder: Path, row: dict[str, float]) -> None:
        name = f"{self.name}_" if self.name else ""
        path = folder / f"multilingual_retrieval_evaluation_{name}results.csv"
        before = path.read_text(encoding="utf-8") if path.exists() else ",".join(row) + "\n"
        with atomic_path(path) as temporary:
            temporary.write_text(before + ",".join(map(str, row.values())) + "\n", encoding="utf-8")
