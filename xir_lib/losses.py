"""In-batch contrastive loss that spends no work on padding, and every core on a part of the batch.

The loss is sentence-transformers' `MultipleNegativesRankingLoss` (InfoNCE over the batch); only the way to the embeddings
differs. The stock loss pads a column of the batch to its longest text. Here a column is sorted by length and cut into
parts of about `part_tokens` tokens, each padded to its own longest text: on a CPU the activations of a part stay in
the cache, and what is kept for the backward pass shrinks by the padding left out. Where torch has several threads, each
takes a part of its own, forwards and backwards, since threads that share one small part wait for each other. Values and
gradients are those of the stock loss up to rounding and to the random numbers of dropout. Knows no strategy and no data set.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from xir_lib.threads import thread_pool

log = logging.getLogger(__name__)

Features = dict[str, Any]
Job = tuple[Features, list[int]]  # a column, and the rows of it that are embedded together


class SortedBatchLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` whose columns are embedded in parts of similar length.

    `part_tokens` bounds rows x longest row of a part, a single long text excepted. The default is 512 on a CPU, small
    enough for its cache, and 65,536 on a GPU, which wants its column at once. `recompute` keeps only the embeddings of a
    part and runs it a second time, dropout included, for its gradient: memory is that of one part per thread, whatever the
    batch, for a third more time (the trade of GradCache, Gao et al. 2021). `threads` parts are computed at a time; the
    default is torch's number of threads on a CPU, and 1 elsewhere and in a process group. With several, each part has
    random numbers of its own, so the result does not depend on which thread took it; a model whose dropout cannot be given
    them is computed part after part. The remaining arguments are the parent's.
    """

    def __init__(
        self,
        model: Any,
        *,
        part_tokens: int | None = None,
        recompute: bool = False,
        threads: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(model, **arguments)
        cpu = model.device.type == "cpu"
        self.recompute = recompute
        self.part_tokens = part_tokens or (512 if cpu else 65536)
        self.threads = threads or (torch.get_num_threads() if cpu else 1)

    def forward(self, sentence_features: Iterable[Features], labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the batch, a scalar; features as the trainer's collator makes them."""
        columns = list(sentence_features)
        parts = [cut_by_length(column["attention_mask"], self.part_tokens) for column in columns]
        jobs = [(column, rows) for column, cut in zip(columns, parts, strict=True) for rows in cut]
        done = iter(self._embed(jobs))
        embeddings = []
        for cut in parts:
            order = torch.tensor([row for rows in cut for row in rows])
            embeddings.append(torch.cat([next(done) for _ in cut])[torch.argsort(order)])
        return self.compute_loss_from_embeddings(embeddings, labels)

    def _embed(self, jobs: list[Job]) -> list[torch.Tensor]:
        """Return the embeddings of every job, (rows, dim) each."""
        embed = partial(_embed, self.model)
        if self.threads > 1 and not torch.distributed.is_initialized():
            before = torch.get_rng_state()
            seeds = torch.randint(2**62, (len(jobs),)).tolist()
            after = torch.get_rng_state()
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            done = _InThreads.apply(embed, jobs, seeds, self.threads, self.recompute, torch.is_grad_enabled(), *parameters)
            if torch.equal(torch.get_rng_state(), after):
                return list(done)
            log.warning("the encoder draws random numbers in a way of its own; its parts are computed one after another")
            self.threads = 1
            torch.set_rng_state(before)
        if self.recompute:
            return [checkpoint(embed, *job, use_reentrant=False) for job in jobs]
        return [embed(*job) for job in jobs]


class _InThreads(torch.autograd.Function):
    """Embed jobs in threads, and take their gradients in threads, each thread's summed in the order of its jobs."""

    @staticmethod
    def forward(
        ctx: Any,
        embed: Callable[[Features, list[int]], torch.Tensor],
        jobs: list[Job],
        seeds: list[int],
        threads: int,
        recompute: bool,
        with_gradient: bool,
        *parameters: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        mixed = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def run(number: int, gradient: bool) -> torch.Tensor:
            with (  # all four are a thread's own
                torch.set_grad_enabled(gradient),
                torch.autocast("cpu", mixed[1], enabled=mixed[0]),
                _OwnDropout(seeds[number]),
            ):
                return embed(*jobs[number])

        kept = with_gradient and not recompute
        with thread_pool(threads) as pool:
            outputs = list(pool.map(partial(run, gradient=kept), range(len(jobs))))
        ctx.run, ctx.threads, ctx.parameters = run, threads, parameters
        ctx.outputs = outputs if kept else [None] * len(jobs)
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        def run(first: int) -> list[torch.Tensor | None]:
            total: list[torch.Tensor | None] = [None] * len(ctx.parameters)
            for place, number in enumerate(range(first, len(gradients), ctx.threads)):
                output = ctx.run(number, gradient=True) if ctx.outputs[number] is None else ctx.outputs[number]
                ctx.outputs[number] = None  # its activations
                found = torch.autograd.grad(output, ctx.parameters, gradients[number], allow_unused=True)
                # What autograd returns may be one tensor for two parameters; the first sum is a tensor of our own.
                total = [_sum(*both, in_place=place > 1) for both in zip(total, found, strict=True)]
            return total

        with thread_pool(ctx.threads) as pool:
            first, *others = pool.map(run, range(ctx.threads))
        for other in others:
            first = [_sum(*both) for both in zip(first, other, strict=True)]
        return (None,) * 6 + tuple(first)


class _OwnDropout(TorchDispatchMode):
    """Draw dropout's random numbers from a generator of this thread: torch's own is shared by all of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bernoulli_.float:
            return args[0].bernoulli_(*args[1:], generator=self.generator)
        return func(*args, **(kwargs or {}))


def _sum(one: torch.Tensor | None, other: torch.Tensor | None, in_place: bool = False) -> torch.Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other) if in_place else one + other


def cut_by_length(mask: torch.Tensor, part_tokens: int) -> list[list[int]]:
    """Return the rows of a column, (batch, tokens), in parts of similar length, the shortest first."""
    lengths = mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True)
    parts: list[list[int]] = [[]]
    for row, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if parts[-1] and (len(parts[-1]) + 1) * length > part_tokens:  # ascending, so this row is the longest so far
            parts.append([])
        parts[-1].append(row)
    return parts


def _embed(model: Any, features: Features, rows: list[int]) -> torch.Tensor:
    mask = features["attention_mask"]
    used = mask[rows].any(dim=0)
    part = {
        key: value[rows][:, used] if torch.is_tensor(value) and value.shape == mask.shape else value
        for key, value in features.items()
    }
    return model(part)["sentence_embedding"]  # (rows, dim)
