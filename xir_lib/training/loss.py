"""In-batch contrastive loss that spends no work on padding.

The loss is sentence-transformers' `MultipleNegativesRankingLoss` (InfoNCE over the batch); only the
way to the embeddings differs. The stock loss pads a column of the batch to its longest text. Here a
column is sorted by length and cut into parts of about `part_tokens` tokens, each padded to its own
longest text: on a CPU the activations of a part stay in the cache, and what is kept for the
backward pass shrinks by the padding left out. Values and gradients are those of the stock loss up
to rounding and to the random numbers of dropout. Knows no strategy and no data set.
"""

from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils.checkpoint import checkpoint

from xir_lib.errors import InputError
from xir_lib.training.settings import TrainSettings

Features = dict[str, Any]  # of one column of the batch, as the trainer's collator makes them


class SortedBatchLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` whose columns are embedded in parts of similar length.

    `part_tokens` bounds rows x longest row of a part, a single long text excepted. The default is
    512 on a CPU, small enough for its cache, and 65,536 on a GPU, which wants its column at once.
    `recompute` keeps only the embeddings of a part and runs it a second time, dropout included, for
    its gradient: memory is that of one part, whatever the batch, for a third more time (the trade
    of GradCache, Gao et al. 2021, made by `torch.utils.checkpoint`). Other arguments are the
    parent's::

        loss = SortedBatchLoss(model, scale=1 / temperature)
        trainer = SentenceTransformerTrainer(model, arguments, train_dataset=pairs, loss=loss)
    """

    def __init__(
        self,
        model: Any,
        *,
        part_tokens: int | None = None,
        recompute: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(model, **arguments)
        self.recompute = recompute
        self.part_tokens = part_tokens or (512 if model.device.type == "cpu" else 65536)

    def forward(self, sentence_features: Iterable[Features], labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the batch, a scalar in nats."""
        return self.compute_loss_from_embeddings(self.embed(sentence_features), labels)

    def embed(self, columns: Iterable[Features]) -> list[torch.Tensor]:
        """Return the embeddings of each column, (batch, dim)."""
        return [
            embed_sorted(self.model, column, self.part_tokens, self.recompute) for column in columns
        ]


class ParallelQueryLoss(SortedBatchLoss):
    """`SortedBatchLoss` plus a term that makes a query and its translation score alike.

    The last column of the batch holds every row's query in another language. Over the passages of
    the batch both have a softmax of scores, P and Q; added is `query_kl` times the mean over rows
    of (KL(P || Q) + KL(Q || P)) / 2, the symmetric form of the language alignment of LaKDA (arXiv
    2509.06195). Gradients reach both queries and the passages::

        pairs = PairDataset.from_pairs(table, parallel_seed=0)  # query, passage, parallel_query
        loss = ParallelQueryLoss(model, query_kl=0.5, scale=1 / temperature)
    """

    def __init__(self, model: Any, *, query_kl: float, **arguments: Any) -> None:
        super().__init__(model, **arguments)
        self.query_kl = query_kl

    def forward(self, sentence_features: Iterable[Features], labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the batch, a scalar in nats.

        The columns are query, passage, perhaps negatives, and parallel query, of equal length.
        """
        *own, parallel = self.embed(sentence_features)
        if len(own) < 2:
            raise InputError(
                f"{len(own) + 1} columns of texts, query, passage and parallel query are needed;"
                " give parallel_seed"
            )
        passages = torch.cat(own[1:])  # with the negatives, if any
        one, other = (
            torch.log_softmax(self.similarity_fct(queries, passages) * self.scale, dim=1)
            for queries in (own[0], parallel)
        )
        # both KL terms in one sum: (P - Q) (log P - log Q)
        divergence = ((one.exp() - other.exp()) * (one - other)).sum(dim=1) / 2  # (batch,)
        return self.compute_loss_from_embeddings(own, labels) + self.query_kl * divergence.mean()


def loss_for(model: Any, settings: TrainSettings) -> SortedBatchLoss:
    """Return the loss that the settings ask for."""
    given: dict[str, Any] = {"scale": 1 / settings.temperature, "recompute": settings.recompute}
    if settings.query_kl:
        return ParallelQueryLoss(model, query_kl=settings.query_kl, **given)
    return SortedBatchLoss(model, **given)


def embed_sorted(
    model: Any, features: Features, part_tokens: int, recompute: bool = False
) -> torch.Tensor:
    """Embed one column, (batch, dim), by parts of similar length; rows keep their order."""
    mask = features["attention_mask"]  # (batch, tokens)
    if mask.device.type != "cpu" and mask.numel() <= part_tokens and not recompute:
        # one part: nothing to sort, and a GPU need not wait for the lengths
        return model(features)["sentence_embedding"]
    lengths = mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    parts: list[list[int]] = [[]]
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        # lengths ascend, so this row is the longest of its part so far
        if parts[-1] and (len(parts[-1]) + 1) * length > part_tokens:
            parts.append([])
        parts[-1].append(row)
    if recompute:
        done = [checkpoint(_embed, model, features, rows, use_reentrant=False) for rows in parts]
    else:
        done = [_embed(model, features, rows) for rows in parts]
    return torch.cat(done)[torch.argsort(order)]


def _embed(model: Any, features: Features, rows: list[int]) -> torch.Tensor:
    """Embed some rows of a column, (rows, dim), without the padding that they do not need."""
    mask = features["attention_mask"]
    used = mask[rows].any(dim=0)
    part = {
        key: value[rows][:, used] if torch.is_tensor(value) and value.shape == mask.shape else value
        for key, value in features.items()
    }
    return model(part)["sentence_embedding"]
