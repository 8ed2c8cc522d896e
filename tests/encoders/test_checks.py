"""What is random, pickled or of sizes that do not fit is not opened; what looks so is."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.models import Dense, Pooling, StaticEmbedding, Transformer
from tiny import build_tiny
from tokenizers import Tokenizer
from torch import Tensor
from toy import SETTINGS, toy_pairs, toy_task
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from xir_lib.cli import main
from xir_lib.encoders.checks import check_opened
from xir_lib.encoders.encode import encode
from xir_lib.encoders.open import open_encoder, save_encoder
from xir_lib.errors import InputError
from xir_lib.training.run import train
from xir_lib.training.settings import TrainSettings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of 41 pieces and 46 rows, mean pooling and a Dense of 16 to 8."""
    folder = tmp_path_factory.mktemp("encoder")
    plain = Transformer(str(build_tiny(folder).parent / "plain"))
    model = SentenceTransformer(modules=[plain, Pooling(16, "mean"), Dense(16, 8)], device="cpu")
    model.save(str(folder / "dense"), create_model_card=False)
    return folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built / "dense", tmp_path / "encoder")


def change(file: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def configure(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def lose_a_layer(folder: Path) -> None:
    change(
        folder / "model.safetensors",
        lambda all_: {name: tensor for name, tensor in all_.items() if ".layer.1." not in name},
    )


def widen_the_config(folder: Path) -> None:
    configure(folder / "config.json", intermediate_size=64)


def lose_rows(folder: Path) -> None:
    name = "embeddings.word_embeddings.weight"
    change(folder / "model.safetensors", lambda all_: all_ | {name: all_[name][:40].clone()})
    configure(folder / "config.json", vocab_size=40)


def lose_static_rows(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    static = StaticEmbedding(tokenizer, embedding_weights=torch.ones(40, 4).numpy())
    shutil.rmtree(folder)
    SentenceTransformer(modules=[static], device="cpu").save(str(folder), create_model_card=False)


def lose_the_static_table(folder: Path) -> None:
    lose_static_rows(folder)
    (weights,) = folder.rglob("model.safetensors")
    change(weights, lambda all_: {"else": all_["embedding.weight"]})


def lose_the_bias(folder: Path) -> None:
    weight = "linear.weight"
    change(folder / "2_Dense" / "model.safetensors", lambda all_: {weight: all_[weight]})


def widen_the_dense(folder: Path) -> None:
    configure(folder / "2_Dense" / "config.json", in_features=24)
    wide = {"linear.weight": torch.ones(8, 24)}
    change(folder / "2_Dense" / "model.safetensors", lambda all_: all_ | wide)


def pickle_the_dense(folder: Path) -> None:
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()


def widen_the_pooling(folder: Path) -> None:
    shutil.rmtree(folder / "2_Dense")  # its size would be the one that the model tells
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    (file,) = folder.glob("1_Pooling/config.json")
    sizes = [name for name in json.loads(file.read_text()) if name.endswith("_dimension")]
    configure(file, **dict.fromkeys(sizes, 24))


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (
        lose_a_layer,
        r"encoder '.*' lacks 16 of its 37 tensors, which would be drawn at random: "
        r"encoder\.layer\.1\.attention\.output\.LayerNorm\.bias, \S+, \S+, \.\.\.; download",
    ),
    (
        widen_the_config,
        r"encoder '.*' has 6 tensors of other sizes .*: "
        r"encoder\.layer\.0\.intermediate\.dense\.bias is \[32\], not \[64\], ",
    ),
    (lose_rows, r"encoder '.*' has 40 rows of embeddings for 41 pieces"),
    (lose_static_rows, r"encoder '.*' has 40 rows of embeddings for 41 pieces"),
    (lose_the_static_table, r"cannot open encoder '.*': no 'embeddings' in its weights"),
    (lose_the_bias, r"cannot open encoder '.*': .*Missing key\(s\) in state_dict: .linear\.bias"),
    (widen_the_dense, r"encoder '.*' cannot encode: .*multiplied \(1x16 and 24x8\)"),
    (pickle_the_dense, r"cannot open encoder '.*': 2_Dense/pytorch_model\.bin is a pickle"),
    (widen_the_pooling, r"encoder '.*' says 24 dimensions and gives 16; mend"),
]


@pytest.mark.parametrize(
    ("fault", "message"),
    FAULTS,
    ids=[fault.__name__ for fault, _ in FAULTS],
)
def test_a_half_random_or_unfit_encoder_is_refused(
    folder: Path,
    fault: Callable[[Path], None],
    message: str,
) -> None:
    open_encoder(str(folder))  # it is the fault that is refused
    fault(folder)
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        open_encoder(str(folder))


def test_a_wrong_size_is_named_of_a_model_opened_elsewhere(folder: Path) -> None:
    widen_the_pooling(folder)
    with pytest.raises(InputError, match="the encoder says 24 dimensions and gives 16"):
        encode(SentenceTransformer(str(folder), device="cpu"), ["ab"], prompt="")


def test_train_and_evaluate_refuse_one_too(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lose_a_layer(folder)
    with pytest.raises(InputError, match="lacks 16 of its 37 tensors"):
        train(str(folder), toy_pairs(), TrainSettings(**SETTINGS), tmp_path / "new" / "model")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".model.lock"]
    toy_task().save(tmp_path / "toy")
    told = ["evaluate", "--model", folder, "--task", tmp_path / "toy", "--cache", tmp_path / "c"]
    monkeypatch.setattr(sys, "argv", ["xir", *map(str, [*told, "--out", tmp_path / "out"])])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "lacks 16 of its 37 tensors" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_an_unread_pickle_beside_the_weights_is_no_fault(folder: Path) -> None:
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")
    torch.save({}, folder / "pytorch_model.bin")
    assert open_encoder(str(folder)).get_embedding_dimension() == 8


BERT = BertConfig(
    vocab_size=46,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
    pad_token_id=3,
)
SOURCES: dict[str, Callable[[], PreTrainedModel]] = {
    "no pooler": lambda: BertModel(BERT, add_pooling_layer=False),
    "a prefix, a head and tied weights": lambda: BertForMaskedLM(BERT),
    "a decoder, and tied weights": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=46, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_checkpoint_of_another_head_opens_with_its_own_weights(
    kind: str,
    built: Path,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(built / "plain", tmp_path / "plain")
    (folder / "model.safetensors").unlink()
    source = SOURCES[kind]()
    source.save_pretrained(folder)
    theirs = {name.removeprefix("bert."): tensor for name, tensor in source.state_dict().items()}
    ours = open_encoder(str(folder))[0].model.state_dict()
    assert len(ours) > 10
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_two_encoders_without_poolers_open(built: Path, tmp_path: Path) -> None:
    for name in "ab":
        save_encoder(open_encoder(str(built / "tiny")), tmp_path / name)
    parts = [list(SentenceTransformer(str(tmp_path / name), device="cpu")) for name in "ab"]
    both = SentenceTransformer(modules=[Router.for_query_document(*parts)], device="cpu")
    both.save(str(tmp_path / "both"), create_model_card=False)
    for settings in (tmp_path / "both").rglob("sentence_bert_config.json"):
        configure(settings, model_kwargs={})  # as saved by others, who name no pooler
    one, routed = open_encoder(str(built / "tiny")), open_encoder(str(tmp_path / "both"))
    vectors = [encode(model, ["ab"], prompt="", precision="float32") for model in (one, routed)]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)
    weights, _ = sorted((tmp_path / "both").rglob("*_Transformer/model.safetensors"))
    lose_a_layer(weights.parent)
    with pytest.raises(InputError, match="lacks 16 of its 37 tensors"):
        open_encoder(str(tmp_path / "both"))


def test_the_checks_draw_nothing_and_leave_the_loaders_as_they_were(folder: Path) -> None:
    before = vars(PreTrainedModel)["from_pretrained"]
    model, state = open_encoder(str(folder)), torch.get_rng_state()
    check_opened("it", model, [])
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(PreTrainedModel)["from_pretrained"] is before
    assert isinstance(BertModel.from_pretrained(folder), BertModel)
