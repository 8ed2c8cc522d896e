"""The command line: the contracts scripts rely on, and one line with exit code 2 for bad input."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pytest
from safetensors.torch import load_file, save_file
from test_study import hub_xlm_roberta
from tiny import build_tiny
from toy import IDS, toy_pairs, toy_task
from toy_files import beir_parts, write_beir

from xir_lib.cli import main
from xir_lib.data.records import PARAGRAPH, RetrievalTask
from xir_lib.errors import InputError
from xir_lib.paths import REPO
from xir_lib.samplers.dataset import PairDataset

DEMO = str(REPO / "params" / "demo.yaml")
PAPER = "paper"  # found by its name


def xir(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["xir", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--model", "nowhere/", "--task", "atlas-qa", "--out", "o"], "nowhere"),
        (
            ["evaluate", "--model", "m", "--task", "xquad", "--out", "o"],
            "unknown task 'xquad'; use xquad-r",
        ),
        (
            ["evaluate", "--model", "m", "--task", "atlas-qa", "--language", "qq", "--out", "o"],
            "qq",
        ),
        (
            ["evaluate", "--model", "m", "--task", "atlas-qa", "--rival", "magic", "--out", "o"],
            "unknown repair 'magic'",
        ),
        (
            [
                "evaluate",
                "--model",
                "m",
                "--task",
                "atlas-qa-dev",
                "--rival",
                "centring",
                "--out",
                "o",
            ],
            "--fit-on",
        ),
        (["evaluate", "--model", "m", "--task", "atlas-qa"], "Missing option '--out'"),
        (["mix", "--model", "m", "--out", "o", "--task", "miracl-xx"], "unknown task 'miracl-xx'"),
        (
            ["mix", "--model", "m", "--out", "o", "--task", "atlas-qa", "--foreign", "wikipedia"],
            "unknown task 'wikipedia'",
        ),
        (["train", "--params", "none.yaml", "--out", "o"], "none.yaml does not exist"),
        (
            ["train", "--params", DEMO, "--out", "o", "--strategy", "hybrid-7"],
            "alpha must be in [0, 1], got 7",
        ),
        (["train", "--params", DEMO], "--out is missing"),
        (["train", "--out", "o"], "nothing to train on; give --pairs FILE"),
        (["train", "--pairs", "none.jsonl", "--out", "o"], "none.jsonl does not exist"),
        (["train", "--params", DEMO, "--lang", "de", "--out", "o"], "--lang de belongs to --pairs"),
        (["train", "--params", DEMO, "--steps", "0", "--out", "o"], "training: steps: "),
        (["train", "--params", DEMO, "--seed", "-1", "--out", "o"], "training: seed: "),
        (["compare", "a", "b", "--seed", "-1"], "Invalid value for '--seed'"),
        (
            ["evaluate", "--run", "r", "--shards", "s", "--task", "atlas-qa", "--out", "o"],
            "--shards needs a model's vectors",
        ),
        (
            ["train", "--params", DEMO, "--encoder", "./no/such/one", "--dry-run"],
            "no model folder './no/such",
        ),
        (
            ["train", "--params", DEMO, "--batch-size", "5000", "--dry-run"],
            "batch_size 5000 exceeds the 917 ids",
        ),
        (["train", "--params", PAPER, "--out", "o"], "no loader here for MFAQ, "),
        (
            ["train", "--params", PAPER, "--encoder", "nobody/nothing", "--dry-run"],
            "cannot read the configuration of 'nobody",
        ),
        (["compare", "a", "b"], "a/group_sums.parquet does not exist"),
        (["study", "--params", DEMO, "--speed", "9"], "No such option: --speed"),
        (["data", "get", "wikipedia"], "unknown data set 'wikipedia'; known"),
        (["data", "verify", "wikipedia"], "unknown data set"),
        (["data", "build", "--out", "o", "--language", "tlh"], "tlh"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XIR_OFFLINE", "1")
    assert xir(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("xir: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_evaluate_and_compare(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = build_tiny(tmp_path / "encoder")
    toy_task().save(tmp_path / "toy")
    toy_task("other", IDS[1::2]).save(tmp_path / "other")
    common = [
        "evaluate",
        "--model",
        model,
        "--task",
        tmp_path / "toy",
        "--cache",
        tmp_path / "cache",
    ]
    centring = ["--rival", "centring", "--fit-on", tmp_path / "other"]
    capsys.readouterr()
    assert xir(monkeypatch, *common, *centring, "--out", tmp_path / "out", "--json") == 0
    plain, centred = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == plain
    assert json.loads((tmp_path / "out" / "centring" / "metrics.json").read_text()) == centred
    assert (
        xir(
            monkeypatch,
            "compare",
            tmp_path / "out" / "centring",
            tmp_path / "out",
            "--json",
            "--resamples",
            200,
            "--out",
            tmp_path / "c.csv",
        )
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert (tmp_path / "c.csv").read_text().count("\n") == 1 + len(rows)
    assert {
        "verdict",
        "mde",
        "p_holm",
        "p_non_inferior",
        "p_equivalent",
        "margin",
        "design_effect",
    } <= rows[0].keys()
    shown = [
        "compare",
        tmp_path / "out" / "centring",
        tmp_path / "out",
        "--resamples",
        200,
        "--margin",
    ]
    assert xir(monkeypatch, *shown, 0.5, "--json") == 0
    wide = [row for row in json.loads(capsys.readouterr().out) if row["measure"] == "mAP"]
    narrow = [row for row in rows if row["measure"] == "mAP"]
    assert {row["margin"] for row in wide} == {0.5} and {row["margin"] for row in narrow} == {0.01}
    assert [row["low"] for row in wide] == [row["low"] for row in narrow]
    assert all(w["p_equivalent"] < n["p_equivalent"] for w, n in zip(wide, narrow, strict=True))
    assert {row["verdict"] for row in wide} <= {"equivalent", "a better", "b better"}
    assert xir(monkeypatch, *shown, 1.5) == 2
    assert "--margin 1.5 is no difference in mAP" in capsys.readouterr().err
    kept = ("prompts", "max_seq_length", "precision", "normalised", "context", "weights_sha256")
    assert set(kept) <= plain["config"].keys()
    for row in rows:
        if row["measure"] == "mAP":
            gap = (
                centred["settings"][row["setting"]]["mAP"]
                - plain["settings"][row["setting"]]["mAP"]
            )
            assert row["difference"] == pytest.approx(gap, abs=1e-6)
            assert row["low"] <= row["difference"] <= row["high"]
    assert xir(monkeypatch, *common, "--out", tmp_path / "out2") == 0
    told = capsys.readouterr().out
    assert "rank distance" in told
    ceiling = plain["recall_ceilings"]["R@1"]
    assert f"no ranking exceeds R@1 {ceiling:.3f}, R@10" in told
    scored = ["evaluate", "--task", tmp_path / "toy", "--out", tmp_path / "scored"]
    assert xir(monkeypatch, *common, "--out", tmp_path / "out3", "--trec-run", 60) == 0
    assert xir(monkeypatch, *scored, "--run", tmp_path / "out3" / "run.trec") == 0
    assert "run.trec on toy" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "scored" / "metrics.json").read_text())["settings"]
        == plain["settings"]
    )
    assert xir(monkeypatch, *scored) == 2
    assert (
        xir(
            monkeypatch,
            *common,
            "--out",
            tmp_path / "out3",
            "--run",
            tmp_path / "out3" / "run.trec",
        )
        == 2
    )
    assert (
        xir(monkeypatch, *scored, "--run", tmp_path / "out3" / "run.trec", "--rival", "round-robin")
        == 2
    )
    told = capsys.readouterr().err.splitlines()
    assert [line.split(";")[0] for line in told] == [
        "xir: neither of --model and --run given",
        "xir: both of --model and --run given",
        "xir: --repair needs a model's vectors",
    ]
    rows = pd.read_csv(tmp_path / "out2" / "rows.csv")
    rows = rows[(rows["setting"] == "cross-lingual") & (rows["measure"] == "mAP")]
    assert len(rows) == 6 and rows["value"].mean() == pytest.approx(
        plain["settings"]["cross-lingual"]["mAP"], abs=1e-6
    )
    larger = toy_task()
    more = larger.passages.slice(0, 1).set_column(0, "doc_id", pa.array(["another"]))
    replace(larger, passages=pa.concat_tables([larger.passages, more])).save(tmp_path / "larger")
    larger_pool = [
        *common[:4],
        tmp_path / "larger",
        "--out",
        tmp_path / "out4",
        "--shards",
        tmp_path / "shards",
    ]
    assert xir(monkeypatch, *larger_pool) == 0
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["larger"]
    capsys.readouterr()
    assert xir(monkeypatch, "compare", tmp_path / "out4", tmp_path / "out2") == 2
    assert (
        "(task larger, 60 queries, 61 passages) and " in (told := capsys.readouterr().err)
        and told.count("\n") == 1
    )
    (tmp_path / "out2" / "per_query.parquet").write_bytes(b"PAR1, cut off")
    assert xir(monkeypatch, "compare", tmp_path / "out2", tmp_path / "out") == 2
    assert capsys.readouterr().err.endswith(
        "out2/per_query.parquet cannot be read as Parquet, it may be cut off; evaluate again\n"
    )


def test_evaluations_of_one_language_are_compared_in_their_only_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, task = build_tiny(tmp_path / "encoder"), toy_task()
    queries, passages = (
        table.filter(pc.equal(table["lang"], "xx")) for table in (task.queries, task.passages)
    )
    inside = [
        pc.is_in(task.qrels[name], table[name].combine_chunks())
        for name, table in (("query_id", queries), ("doc_id", passages))
    ]
    RetrievalTask("one", queries, passages, task.qrels.filter(pc.and_(*inside))).save(
        tmp_path / "one"
    )
    for name in ("a", "b"):
        assert (
            xir(
                monkeypatch,
                "evaluate",
                "--model",
                model,
                "--task",
                tmp_path / "one",
                "--out",
                tmp_path / name,
            )
            == 0
        )
    assert "multilingual" not in capsys.readouterr().out
    assert (
        xir(monkeypatch, "compare", tmp_path / "a", tmp_path / "b", "--json", "--resamples", 200)
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert [(row["setting"], row["measure"], row["difference"]) for row in rows] == [
        ("monolingual", "mAP", 0)
    ]


def test_mixed_pools_in_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, whole = build_tiny(tmp_path / "encoder"), toy_task()
    parts = [
        table.filter(pc.equal(table["lang"], "xx")) for table in (whole.queries, whole.passages)
    ]
    own = [
        table.filter(pc.match_substring_regex(table["query_id"], "-xx$"))
        for table in (whole.qrels,)
    ]
    judged = own[0].filter(pc.match_substring_regex(own[0]["doc_id"], "-xx$")).slice(0, 5)
    asked = parts[0].filter(pc.is_in(parts[0]["query_id"], judged["query_id"].combine_chunks()))
    RetrievalTask("own", asked, parts[1], judged).save(tmp_path / "own")
    others = whole.passages.filter(pc.not_equal(whole.passages["lang"], "xx"))
    rest = whole.queries.filter(pc.not_equal(whole.queries["lang"], "xx"))
    answered = pc.and_(
        pc.is_in(whole.qrels["query_id"], rest["query_id"].combine_chunks()),
        pc.is_in(whole.qrels["doc_id"], others["doc_id"].combine_chunks()),
    )
    RetrievalTask("others", rest, others, whole.qrels.filter(answered)).save(tmp_path / "others")
    command = [
        "mix",
        "--model",
        model,
        "--task",
        tmp_path / "own",
        "--foreign",
        tmp_path / "others",
    ]
    command += ["--size", 12, "--draws", 2]
    command += [
        "--rival",
        "round-robin",
        "--share",
        0,
        "--share",
        0.5,
        "--out",
        tmp_path / "mixed" / "tiny",
    ]
    assert xir(monkeypatch, *command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["rival"], row["share"]) for row in rows] == [
        (r, s) for r in ("none", "round-robin") for s in (0, 0.5)
    ]
    assert all(row["foreign cost"] == 0 for row in rows if not row["share"])
    assert [row["pool share"] for row in rows] == pytest.approx(
        [0, 4 / 12, 0, 4 / 12], abs=1e-5
    )  # half of 12 - 5 places, rounded
    assert xir(monkeypatch, *command, "--size", 4) == 2
    assert "a pool of 4 cannot hold the 5 judged passages of own" in capsys.readouterr().err


def test_compare_adds_the_interval_over_paragraphs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # oracle: the same scores with the paragraphs as groups
    model = build_tiny(tmp_path / "encoder")
    task = toy_task()
    ids = task.queries["pair_id"]
    finer = replace(task, queries=task.queries.append_column(PARAGRAPH, ids))
    coarse = task.queries.schema.get_field_index("group")
    flat = replace(task, queries=task.queries.set_column(coarse, "group", ids))
    tables = {}
    for name, one in (("finer", finer), ("flat", flat)):
        one.save(tmp_path / name)
        out = tmp_path / f"{name}-out"
        evaluate = [
            "evaluate",
            "--model",
            model,
            "--task",
            tmp_path / name,
            "--rival",
            "round-robin",
            "--out",
            out,
        ]
        assert xir(monkeypatch, *evaluate) == 0
        capsys.readouterr()
        assert (
            xir(monkeypatch, "compare", out / "round-robin", out, "--json", "--resamples", 200) == 0
        )
        tables[name] = {
            (row["setting"], row["measure"]): row for row in json.loads(capsys.readouterr().out)
        }
    one, other = tmp_path / "finer-out" / "round-robin", tmp_path / "finer-out"
    seeds = [
        "--also-a",
        one,
        "--also-b",
        other,
        "--also-a",
        other,
        "--also-b",
        one,
    ]  # three seeds: d, d and -d
    assert xir(monkeypatch, "compare", one, other, *seeds, "--json", "--resamples", 200) == 0
    crossed = {(row["setting"], row["measure"]): row for row in json.loads(capsys.readouterr().out)}
    for key, row in tables["finer"].items():
        assert crossed[key]["seeds"] == 3
        assert crossed[key]["difference"] == pytest.approx(row["difference"] / 3)
        if row["design_effect"] is not None:  # a merge changes the multilingual setting alone
            assert crossed[key]["design_effect"] == pytest.approx(
                row["design_effect"], rel=0.1
            )  # seeds as they are
    wide, narrow = (rows["multilingual", "mAP"] for rows in (crossed, tables["finer"]))
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])
    assert xir(monkeypatch, "compare", one, other, "--also-a", one) == 2
    assert capsys.readouterr().err == "xir: 1 --also-a and 0 --also-b; give as many of both\n"
    for key, row in tables["finer"].items():
        assert (row["paragraph_low"], row["paragraph_high"]) == (
            tables["flat"][key]["low"],
            tables["flat"][key]["high"],
        )
    row = tables["finer"]["multilingual", "mAP"]
    assert (row["low"], row["high"]) != (row["paragraph_low"], row["paragraph_high"])
    assert "paragraph_low" not in tables["flat"]["multilingual", "mAP"]


def test_every_batch_comes_from_one_of_several_data_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    encoder, files = (
        hub_xlm_roberta(tmp_path / "encoder"),
        [tmp_path / name for name in ("faq.jsonl", "news.jsonl")],
    )
    for file, ids in zip(
        files, (IDS[:15], IDS[15:]), strict=True
    ):  # beginning with a to c, and with d to h
        file.write_text("".join(json.dumps(row) + "\n" for row in toy_pairs(ids).table.to_pylist()))
    seen: list[set[str]] = []
    real = PairDataset.__getitems__

    def spy(self: PairDataset, keys: list[Any]) -> list[dict[str, Any]]:
        batch = real(self, keys)
        seen.append({"faq" if row["query"][0] in "abc" else "news" for row in batch})
        return batch

    monkeypatch.setattr(PairDataset, "__getitems__", spy)
    command = [
        "train",
        "--encoder",
        encoder,
        "--pairs",
        files[0],
        "--pairs",
        files[1],
        "--dataset-draw",
        "equal",
        "--steps",
        12,
    ]
    command += ["--batch-size", 4, "--out", tmp_path / "out", "--json"]
    capsys.readouterr()
    assert xir(monkeypatch, *command) == 0
    run = json.loads(capsys.readouterr().out)
    assert (
        len(seen) == 12
        and all(len(names) == 1 for names in seen)
        and set.union(*seen) == {"faq", "news"}
    )
    counts = {name: 4 * sum(names == {name} for names in seen) for name in ("faq", "news")}
    assert run["realised"]["dataset"] == counts and sum(counts.values()) == 48
    assert run["pairs"]["ids"] <= 40
    assert xir(monkeypatch, *command[:-3], "--dry-run") == 0
    assert "Batches by data set" in capsys.readouterr().out
    assert xir(monkeypatch, *[part if part != "equal" else "often" for part in command]) == 2
    assert "dataset_draw" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    twin = Path(shutil.copy(files[0], tmp_path / "other"))
    assert (
        xir(
            monkeypatch, *command[:3], "--pairs", files[0], "--pairs", twin, "--out", tmp_path / "x"
        )
        == 2
    )
    assert "two data sets have one name: faq, faq" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_own_pairs_without_passages_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    more: list[str],
) -> None:
    own = tmp_path / "own.jsonl"
    rows = [
        {name: row[name] for name in ("pair_id", "lang", "query")}
        for row in toy_pairs().table.to_pylist()
    ]
    own.write_text("".join(json.dumps(row | {"positive": "a b"}) + "\n" for row in rows))
    encoder = hub_xlm_roberta(tmp_path / "encoder")
    assert (
        xir(
            monkeypatch,
            "train",
            "--encoder",
            encoder,
            "--pairs",
            own,
            "--out",
            tmp_path / "out",
            *more,
        )
        == 2
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == "xir: no usable id for x-x-mono: none has a query and a passage in one language"


@pytest.mark.parametrize("fit", ["foreign", "corpus"])
def test_the_texts_for_centring_are_there_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fit: str
) -> None:
    seen: list[str] = []

    def planned(*given: Any) -> None:
        seen.extend(source.name for source in given[3])
        raise InputError("enough")

    monkeypatch.setattr("xir_lib.evaluation.plan.plan_repairs", planned)
    command = [
        "evaluate",
        "--model",
        "m",
        "--task",
        "atlas-qa",
        "--language",
        "en",
        "--language",
        "sw",
        "--rival",
        "centring",
    ]
    assert xir(monkeypatch, *command, "--fit", fit, "--out", tmp_path / "out") == 2
    assert seen == ["atlas-qa-train"]


def test_training_on_own_pairs_in_one_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    encoder, own, out = (
        hub_xlm_roberta(tmp_path / "encoder"),
        tmp_path / "own.jsonl",
        tmp_path / "run" / "fixed",
    )
    own.write_text("".join(json.dumps(row) + "\n" for row in toy_pairs().table.to_pylist()))
    command = [
        "train",
        "--encoder",
        encoder,
        "--pairs",
        own,
        "--out",
        out,
        "--json",
        "--batch-size",
        8,
    ]
    capsys.readouterr()
    assert xir(monkeypatch, *command, "--dry-run") == 0
    planned = json.loads(capsys.readouterr().out)
    assert not out.parent.exists()
    assert (
        planned["cost"]["this run"]["pairs"] == planned["sampler"]["ids"] == 40
    )  # one pass; too few to hold some out
    assert xir(monkeypatch, *command) == 0
    run = json.loads(capsys.readouterr().out)
    assert run["settings"] == planned["settings"]
    assert run["settings"]["strategy"] == "hybrid-0.5"
    old, new = (load_file(folder / "model.safetensors") for folder in (encoder, out))
    assert any((old[f"roberta.{name}"] != value).any() for name, value in new.items())
    # A profile gives the settings, the options win, and the file replaces the profile's data.
    command = [
        *command,
        "--params",
        DEMO,
        "--strategy",
        "x-y",
        "--seed",
        3,
        "--steps",
        2,
        "--learning-rate",
        "1e-3",
        "--temperature",
        "0.01",
        "--dry-run",
    ]
    assert xir(monkeypatch, *command) == 0
    planned = json.loads(capsys.readouterr().out)
    expected = {
        "strategy": "x-y",
        "seed": 3,
        "steps": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "max_seq_length": 64,
    }
    expected["temperature"] = 0.01
    assert planned["settings"] | expected == planned["settings"]
    assert (planned["encoder"], planned["sampler"]["ids"]) == (str(encoder), 40)


def test_a_dry_run_of_the_paper_needs_no_data_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XIR_OFFLINE", "1")
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "none"))
    assert xir(monkeypatch, "train", "--params", PAPER, "--dry-run", "--json") == 0
    xlm_r = json.loads(capsys.readouterr().out)
    assert xlm_r["sampler"] is None
    assert (
        xir(
            monkeypatch,
            "train",
            "--params",
            PAPER,
            "--encoder",
            "sentence-transformers/LaBSE",
            "--dry-run",
            "--json",
        )
        == 0
    )
    labse = json.loads(capsys.readouterr().out)
    assert {name: cost["flops"] for name, cost in xlm_r["cost"].items()} == pytest.approx(
        {name: cost["flops"] for name, cost in labse["cost"].items()}
    )  # the same layers; only the table is larger
    assert (
        labse["cost"]["one epoch"]["optimiser_gb"]
        > 1.6 * xlm_r["cost"]["one epoch"]["optimiser_gb"]
    )
    assert xir(monkeypatch, "train", "--params", PAPER, "--dry-run", "--out", "o") == 0
    text = capsys.readouterr().out
    assert all(
        part in text
        for part in ("mMARCO", "A100 h", "H100 h", "1,000 steps", "one epoch", "438,723")
    )
    assert not list(tmp_path.iterdir())


def test_data_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XIR_DATA", str(tmp_path))
    assert xir(monkeypatch, "data", "list", "--json") == 0
    listed = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert {"xquad-r", "mlqa-r", "mlqa-v1", "belebele", "miracl-yo"} <= listed.keys() and set(
        listed.values()
    ) == {"missing"}
    assert xir(monkeypatch, "data", "verify", "xquad-r") == 2
    monkeypatch.setenv("XIR_OFFLINE", "1")
    assert xir(monkeypatch, "data", "get", "xquad-r") == 2
    assert "XIR_OFFLINE is set" in capsys.readouterr().err
    assert (
        xir(
            monkeypatch,
            "data",
            "build",
            "--out",
            tmp_path / "atlas",
            "--language",
            "sw",
            "--language",
            "en",
        )
        == 0
    )
    first = json.loads((tmp_path / "atlas" / "train.jsonl").read_text().splitlines()[0])
    assert {"pair_id", "lang", "query", "passage"} <= first.keys()


def test_help_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["data", "list"],
        ["data", "get"],
        ["data", "verify"],
        ["data", "build"],
        ["train"],
        ["evaluate"],
        ["bias"],
        ["compare"],
        ["study"],
        ["publish"],
    ):
        assert xir(monkeypatch, *command, "--help") == 0
        assert "Usage" in capsys.readouterr().out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("encoder"))


def edit_task(folder: Path, part: str, change: Any) -> None:
    """Change one saved table without the checks of `RetrievalTask.save`."""
    path = folder / f"{part}.arrow"
    feather.write_feather(
        change(feather.read_table(path, memory_map=False)), path, compression="uncompressed"
    )


def no_lang(table: pa.Table) -> pa.Table:
    return table.set_column(
        1, table.schema.field("lang"), pa.array([None, *table["lang"].to_pylist()[1:]], pa.string())
    )


def judge_nowhere(table: pa.Table) -> pa.Table:
    row = {"query_id": "ai-xx", "doc_id": "nowhere", "relevance": 1}
    return pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)])


BAD_TASKS = [
    ("qrels", lambda table: table.slice(3), "query 'ai-xx' and 0 more have no relevant passage"),
    ("qrels", judge_nowhere, "judged doc_id 'nowhere' is not among its texts"),
    (
        "passages",
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        "toy passages: 2 rows for doc_id='ai-xx'",
    ),
    (
        "queries",
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        "toy queries: 2 rows for query_id='ai-xx'",
    ),
    ("passages", lambda table: table.slice(0, 0), "60 queries and 0 passages; both must be > 0"),
    ("passages", no_lang, "toy passages: row 0 has no lang; drop the row or give one"),
    ("queries", lambda table: table.drop_columns("group"), "toy queries: columns query_id string"),
]
BAD_FILES = [
    (
        lambda data: data[: len(data) // 2],
        "passages.arrow is no complete Arrow file (Not an Arrow file); make it again",
    ),
    (lambda data: b"", "passages.arrow is no complete Arrow file (File is too small"),
    (
        lambda data: data.replace(b"n a i a i", b"\xff a i a i"),
        "passages.arrow is no complete Arrow file (Column 2: In chunk 0",
    ),
    (
        lambda data: data[:300] + b"\xff" * 30 + data[330:],
        "passages.arrow is no complete Arrow file (Invalid flatbuffers message",
    ),
]
COMMANDS = ("evaluate", "bias")


def refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    folder: Path,
    *arguments: object,
) -> str:
    """Run a command that must fail; return its one line. Nothing may be left in `folder`."""
    capsys.readouterr()
    folder.mkdir(exist_ok=True)
    assert xir(monkeypatch, command, "--out", folder / "out", *arguments) == 2
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    lines = [
        line
        for line in lines
        if line.strip() and "text/s" not in line and "Loading weights" not in line
    ]  # bars
    assert len(lines) == 1 and lines[0].startswith("xir: ")
    assert not list(folder.iterdir())
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("part", "change", "message"), BAD_TASKS)
def test_a_saved_task_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny: Path,
    command: str,
    part: str,
    change: Any,
    message: str,
) -> None:
    toy_task().save(tmp_path / "toy")
    edit_task(tmp_path / "toy", part, change)
    assert message in refused(
        monkeypatch, capsys, command, tmp_path / "w", "--model", tiny, "--task", tmp_path / "toy"
    )


@pytest.mark.parametrize(("change", "message"), BAD_FILES)
def test_a_saved_task_that_is_broken(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny: Path,
    change: Any,
    message: str,
) -> None:
    toy_task().save(tmp_path / "toy")
    path = tmp_path / "toy" / "passages.arrow"
    before = path.read_bytes()
    path.write_bytes(change(before))
    assert path.read_bytes() != before
    assert message in refused(
        monkeypatch, capsys, "evaluate", tmp_path / "w", "--model", tiny, "--task", tmp_path / "toy"
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (float("nan"), "text number 0 of 20 has no usable vector (zero or not finite): 'a i n'"),
        (0.0, "text number 0 of 20 has no usable vector (zero or not finite): 'a i n'"),
        (None, "says 8 dimensions and gives 16; mend its modules' config.json"),
    ],
)
def test_a_model_that_gives_no_usable_vectors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
    damage: float | None,
    message: str,
) -> None:
    toy_task().save(tmp_path / "toy")
    model = build_tiny(tmp_path / "encoder")
    if damage is None:
        config = next(model.glob("1_*/config.json"))
        config.write_text(json.dumps(json.loads(config.read_text()) | {"embedding_dimension": 8}))
    else:
        weights = load_file(model / "model.safetensors")
        save_file(
            {name: value.fill_(damage) for name, value in weights.items()},
            model / "model.safetensors",
        )
    assert message in refused(
        monkeypatch, capsys, command, tmp_path / "w", "--model", model, "--task", tmp_path / "toy"
    )


def test_a_task_from_a_beir_folder_and_paths_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Path
) -> None:
    toy_task().save(tmp_path / "toy")
    beir = write_beir(tmp_path / "beir" / "toy", *beir_parts())  # of the same name
    capsys.readouterr()
    for task, out in ((tmp_path / "toy", "one"), (beir, "other")):
        assert (
            xir(
                monkeypatch,
                "evaluate",
                "--model",
                tiny,
                "--task",
                task,
                "--out",
                tmp_path / out,
                "--trec-run",
                5,
            )
            == 0
        )
    for name in ("metrics.json", "run.trec"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    lines = (beir / "qrels" / "test.tsv").read_text().splitlines()
    (beir / "qrels" / "test.tsv").write_text("\n".join([*lines, "ai-xx\tnowhere\t1"]))
    message = refused(
        monkeypatch, capsys, "evaluate", tmp_path / "w", "--model", tiny, "--task", beir
    )
    assert (
        f"{beir}/qrels/test.tsv line {len(lines) + 1}: id 'nowhere' is not in corpus.jsonl"
        in message
    )
    assert "--trec-run 61 is deeper than the pool, 60 passages" in refused(
        monkeypatch,
        capsys,
        "evaluate",
        tmp_path / "w",
        "--model",
        tiny,
        "--task",
        tmp_path / "toy",
        "--trec-run",
        61,
    )
    (tmp_path / "file").write_text("mine")
    for command in COMMANDS:
        assert "Not a directory" in refused(
            monkeypatch,
            capsys,
            command,
            tmp_path / "w",
            "--model",
            tiny,
            "--task",
            tmp_path / "toy",
            "--out",
            tmp_path / "file" / "o",
        )
    assert (tmp_path / "file").read_text() == "mine"
