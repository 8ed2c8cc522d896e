"""The sorted loss against sentence-transformers' own: equal values and gradients, whatever the
parts.
"""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from tiny import build_tiny

from xir_lib.errors import InputError
from xir_lib.training.loss import ParallelQueryLoss, SortedBatchLoss

QUERIES = ["a b", "c", "d e f g h i j k l m n o p", "g h i", "ab cd ef", "p o n m"]
PASSAGES = ["b a " * 9, "c c", "h", "m n o p " * 4, "d", "ef gh"]
NEGATIVES = ["n", "o p " * 7, "a", "b b b", "k l m n", "c d"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    model = SentenceTransformer(str(build_tiny(tmp_path_factory.mktemp("encoder"))), device="cpu")
    return model.eval()  # without dropout, whose random numbers depend on the parts


def loss_and_gradients(
    loss: MultipleNegativesRankingLoss,
    model: SentenceTransformer,
    columns: tuple[list[str], ...] = (QUERIES, PASSAGES, NEGATIVES),
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    value = loss([model.preprocess(texts) for texts in columns], torch.empty(0))
    value.backward()
    return value.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("part_tokens", [1, 20, 64, 10_000])
def test_value_and_gradients_are_the_stock_loss_s(
    model: SentenceTransformer, part_tokens: int
) -> None:
    expected, wanted = loss_and_gradients(MultipleNegativesRankingLoss(model, scale=20.0), model)
    value, found = loss_and_gradients(
        SortedBatchLoss(model, scale=20.0, part_tokens=part_tokens), model
    )
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_short_texts_are_not_padded_to_the_longest(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    forward = model.forward
    monkeypatch.setattr(
        model,
        "forward",
        lambda part, **kw: (seen.append(tuple(part["input_ids"].shape)), forward(part, **kw))[1],
    )
    features = [model.preprocess(texts) for texts in (QUERIES, PASSAGES)]
    stock = sum(f["input_ids"].numel() for f in features)
    SortedBatchLoss(model, part_tokens=20)(features, torch.empty(0))
    assert sum(rows for rows, _ in seen) == 12  # every text once
    assert sum(rows * tokens for rows, tokens in seen) < 0.6 * stock
    assert all(rows * tokens <= 20 or rows == 1 for rows, tokens in seen)


def test_recomputing_changes_no_gradient_even_with_dropout(model: SentenceTransformer) -> None:
    found = []
    model.train()
    for recompute in (False, True):
        torch.manual_seed(0)
        found.append(
            loss_and_gradients(
                SortedBatchLoss(model, scale=20.0, part_tokens=20, recompute=recompute), model
            )
        )
    model.eval()
    plain = loss_and_gradients(SortedBatchLoss(model, scale=20.0, part_tokens=20), model)
    assert found[0][0] == found[1][0] != plain[0]  # dropout was on
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_the_parallel_term_is_torch_s_symmetric_divergence(model: SentenceTransformer) -> None:
    parallel, scale = QUERIES[1:] + QUERIES[:1], 20.0
    vectors = [
        torch.nn.functional.normalize(model(model.preprocess(texts))["sentence_embedding"], dim=1)
        for texts in (QUERIES, parallel, PASSAGES + NEGATIVES)
    ]
    one, other = ((queries @ vectors[2].T * scale).log_softmax(dim=1) for queries in vectors[:2])
    both = [
        torch.nn.functional.kl_div(*pair, log_target=True, reduction="batchmean")
        for pair in ((one, other), (other, one))
    ]
    columns = (QUERIES, PASSAGES, NEGATIVES, parallel)
    value, gradients = loss_and_gradients(
        ParallelQueryLoss(model, query_kl=0.7, scale=scale), model, columns
    )
    plain, without = loss_and_gradients(SortedBatchLoss(model, scale=scale), model)
    assert both[0] > 0.01
    torch.testing.assert_close(value - plain, 0.7 * (sum(both) / 2).detach(), rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(gradients[name], without[name], rtol=1e-2) for name in without)


def test_a_loss_without_parallel_queries_is_refused(model: SentenceTransformer) -> None:
    features = [model.preprocess(texts) for texts in (QUERIES, PASSAGES)]
    with pytest.raises(InputError, match="2 columns of texts"):
        ParallelQueryLoss(model, query_kl=1.0)(features, torch.empty(0))


def test_a_query_that_is_its_own_parallel_adds_nothing(model: SentenceTransformer) -> None:
    value, gradients = loss_and_gradients(
        ParallelQueryLoss(model, query_kl=3.0), model, (QUERIES, PASSAGES, QUERIES)
    )
    expected, wanted = loss_and_gradients(SortedBatchLoss(model), model, (QUERIES, PASSAGES))
    torch.testing.assert_close(value, expected)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)
