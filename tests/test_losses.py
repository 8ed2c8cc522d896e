"""The sorted loss against sentence-transformers' own: equal values and gradients, whatever the parts."""

import itertools
import time

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from test_encoders import build_tiny

from xir_lib.losses import SortedBatchLoss

QUERIES = ["a b", "c", "d e f g h i j k l m n o p", "g h i", "ab cd ef", "p o n m"]
PASSAGES = ["b a " * 9, "c c", "h", "m n o p " * 4, "d", "ef gh"]
NEGATIVES = ["n", "o p " * 7, "a", "b b b", "k l m n", "c d"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    model = SentenceTransformer(str(build_tiny(tmp_path_factory.mktemp("encoder"))), device="cpu")
    return model.eval()  # without dropout, whose random numbers depend on the parts


def loss_and_gradients(
    loss: MultipleNegativesRankingLoss, model: SentenceTransformer
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    value = loss([model.preprocess(texts) for texts in (QUERIES, PASSAGES, NEGATIVES)], torch.empty(0))
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("part_tokens", [1, 20, 64, 10_000])
def test_value_and_gradients_are_the_stock_loss_s(
    model: SentenceTransformer, part_tokens: int, threads: int, recompute: bool
) -> None:
    expected, wanted = loss_and_gradients(MultipleNegativesRankingLoss(model, scale=20.0), model)
    options = {"part_tokens": part_tokens, "threads": threads, "recompute": recompute}
    value, found = loss_and_gradients(SortedBatchLoss(model, scale=20.0, **options), model)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_short_texts_are_not_padded_to_the_longest(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda part, **kw: (seen.append(tuple(part["input_ids"].shape)), forward(part, **kw))[1]
    )
    features = [model.preprocess(texts) for texts in (QUERIES, PASSAGES)]
    stock = sum(f["input_ids"].numel() for f in features)
    SortedBatchLoss(model, part_tokens=20, threads=1)(features, torch.empty(0))
    assert sum(rows for rows, _ in seen) == 12  # every text once
    assert sum(rows * tokens for rows, tokens in seen) < 0.6 * stock
    assert all(rows * tokens <= 20 or rows == 1 for rows, tokens in seen)


@pytest.mark.parametrize("threads", [1, 2])
def test_recomputing_changes_no_gradient_even_with_dropout(model: SentenceTransformer, threads: int) -> None:
    found = []
    model.train()
    for recompute in (False, True):
        torch.manual_seed(0)
        loss = SortedBatchLoss(model, scale=20.0, part_tokens=20, recompute=recompute, threads=threads)
        found.append(loss_and_gradients(loss, model))
    model.eval()
    plain = loss_and_gradients(SortedBatchLoss(model, scale=20.0, part_tokens=20), model)
    assert found[0][0] == found[1][0] != plain[0]  # dropout was on
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_threads_draw_the_same_dropout_whoever_is_first(model: SentenceTransformer) -> None:
    def run(threads: int, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        torch.manual_seed(seed)
        loss = SortedBatchLoss(model, scale=20.0, part_tokens=20, threads=threads)
        found = loss_and_gradients(loss, model)
        assert loss.threads == threads  # no way back to one thread was taken
        return found

    forward = model.forward
    model.train()
    try:
        expected, wanted = run(2, seed=0)
        for delay in ([0.02, 0.0], [0.0, 0.02], [0.01, 0.0, 0.02]):
            pauses = itertools.cycle(delay)
            model.forward = lambda part, pauses=pauses, **kw: (time.sleep(next(pauses)), forward(part, **kw))[1]
            value, found = run(2, seed=0)
            assert value == expected and all(torch.equal(found[name], gradient) for name, gradient in wanted.items())
        assert run(3, seed=0)[0] == expected != run(2, seed=1)[0]  # a part's numbers are its own, not its thread's
    finally:
        del model.forward
        model.eval()


def test_an_encoder_with_random_numbers_of_its_own_is_computed_part_after_part(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = model.forward

    def noisy(part: dict[str, torch.Tensor], **options: object) -> dict[str, torch.Tensor]:
        found = forward(part, **options)
        return {"sentence_embedding": found["sentence_embedding"] + 0.1 * torch.randn(len(part["input_ids"]), 1)}

    monkeypatch.setattr(model, "forward", noisy)
    found = []
    for threads in (1, 2):
        torch.manual_seed(0)
        loss = SortedBatchLoss(model, scale=20.0, part_tokens=20, threads=threads)
        found.append(loss_and_gradients(loss, model)[0])
    assert found[0] == found[1] and loss.threads == 1
    assert "one after another" in caplog.text


def test_threads_leave_torch_as_it_was(model: SentenceTransformer) -> None:
    before = torch.get_num_threads()
    loss_and_gradients(SortedBatchLoss(model, scale=20.0, part_tokens=20, threads=2), model)
    assert torch.get_num_threads() == before
    with torch.no_grad():
        features = [model.preprocess(texts) for texts in (QUERIES, PASSAGES)]
        assert not SortedBatchLoss(model, part_tokens=20, threads=2)(features, torch.empty(0)).requires_grad
