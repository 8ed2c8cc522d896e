"""What is committed under `figures` and in the README's blocks is what `xir publish` makes of the
committed results.
"""

import json
import re
import shutil
from base64 import b64decode
from pathlib import Path

import pytest

from xir_lib.errors import InputError
from xir_lib.evaluation.card import figures, render
from xir_lib.evaluation.compare import save_table
from xir_lib.paths import REPO
from xir_lib.study import claims, graph, report, tables
from xir_lib.study.results import load_results

PUBLISHED = sorted(path.parent.name for path in (REPO / "figures").glob("*/results"))


@pytest.mark.parametrize("profile", PUBLISHED)
def test_published_figures_can_be_rebuilt_from_their_folder(profile: str, tmp_path: Path) -> None:
    folder = REPO / "figures" / profile
    results = load_results(folder / "results")
    rebuilt = {
        "03_strategies": (
            tables.scores(results).query("measure == 'mAP' and strategy != 'untrained'")
        ),
        "03_family": tables.primary_family(results),
        "07_ledger": claims.ledger(results),
        "07_referees": claims.referee_questions(results),
    }
    assert (folder / "README.md").read_text(encoding="utf-8") == report.profile_page(results)
    for name, table in rebuilt.items():
        save_table(table, tmp_path, name)
        assert (tmp_path / f"{name}.csv").read_text() == (folder / f"{name}.csv").read_text(), name
    files = {path.name for path in (folder / "results").iterdir()}
    assert {"study.json", "runs.json", "evaluations.json", "group_sums.parquet"} <= files
    for png in folder.glob("*.png"):
        assert png.with_suffix(".csv").exists(), png
    for name, run in tables.trained_runs(results):
        assert {"encoder", "pairs_sha256", "settings", "environment", "realised"} <= run.keys()
        expected = results.study.settings(name, run["settings"]["seed"]).model_dump()
        assert (
            expected | run["settings"] == expected
        )  # each run stands behind the name of its own strategy


def test_publishing_again_what_is_committed_changes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, committed = tmp_path / "build", REPO / "figures" / "demo"
    shutil.copytree(
        committed, build / "figures", ignore=shutil.ignore_patterns("results", "README.md", "*.txt")
    )
    shutil.copytree(committed / "results", build / "results")
    shutil.copytree(REPO / "figures", tmp_path / "figures")
    shutil.copy(REPO / "README.md", tmp_path)
    here = {
        name: tmp_path / "figures" / getattr(graph, name).name
        for name in ("MIRACL", "MIXED", "DESIGNS")
    }
    for name, folder in {"REPO": tmp_path, **here}.items():
        monkeypatch.setattr(graph, name, folder)
    blocks = {tmp_path / "figures" / folder.name: block for folder, block in graph.BLOCKS.items()}
    last, made = blocks.popitem()

    def written_meanwhile(folder: Path) -> str:
        with (tmp_path / "README.md").open("a", encoding="utf-8") as readme:
            readme.write("a sentence of the author's\n")
        return made(folder)

    monkeypatch.setattr(graph, "BLOCKS", blocks | {last: written_meanwhile})
    with pytest.raises(InputError, match=r"index\.html"):
        graph.publish(REPO / "params" / "demo.yaml", build=build)
    for path in (tmp_path / "figures" / "demo").glob("[0R]*"):
        path.unlink()
    for name in (
        "when_hybrid/06_effects.csv",
        "when_hybrid/06_alpha.csv",
        "when_hybrid/06_factors.csv",
        "when_hybrid/06_grid.csv",
        "mixed-yo/mixed_pools.csv",
    ):
        (tmp_path / "figures" / name).unlink()
    for folder in (*blocks, last):
        page = folder / "README.md"
        page.write_text(
            re.sub(
                r"(<!-- \S+ tables -->\n).*?(<!-- end -->)", r"\1\2", page.read_text(), flags=re.S
            )
        )
        assert page.read_text() != (REPO / "figures" / folder.name / "README.md").read_text()
    # From the committed results alone: the notebooks that read them draw every figure and table
    # anew, and `publish` copies.
    shutil.copytree(REPO / "notebooks", tmp_path / "notebooks")
    assert graph.republish(REPO / "params" / "demo.yaml") == tmp_path / "figures" / "demo"
    texts = [
        path.relative_to(REPO)
        for path in (REPO / "figures").rglob("*")
        if path.suffix in (".md", ".csv", ".json", ".txt")
    ]
    assert len(texts) > 50
    for path in texts:
        assert (tmp_path / path).read_bytes() == (REPO / path).read_bytes(), path
    kept = (REPO / "README.md").read_text(encoding="utf-8") + "a sentence of the author's\n"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == kept
    names = sorted(path.name for path in committed.iterdir())
    assert sorted(path.name for path in (tmp_path / "figures" / "demo").iterdir()) == names
    assert not (tmp_path / "build" / ".demo.republished").exists()


def test_the_speeds_that_the_readme_names_are_those_measured() -> None:
    results = REPO / "tests" / "benchmarks" / "results"
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    text = " ".join((REPO / "README.md").read_text(encoding="utf-8").split())
    training, full = found["training_speed"], found["training_speed_float32"]
    assert training["same_quality"]
    assert full["same_quality"]
    assert (
        training["speed_ratio_of_the_steps"] >= 2.5
        and training["environment"]["precision"] == "bfloat16"
    )
    ours, least = training["speed_ratio_of_the_steps"], full["speed_ratio_of_the_steps"]
    promised = (
        rf"trains {least} times as many pairs .* and {ours} times as many on a processor that is"
        r" clearly faster in bfloat16"
    )
    assert least < ours and re.search(promised, text)
    gpu = found["training_speed_h100"]
    assert "H100" in gpu["environment"]["device"]
    ratio = f"{gpu['speed_ratio_of_the_steps']:.2f}".removeprefix("0")
    more = sorted(
        f"{100 * share:.0f}" for share in gpu["held_out_loss_ours_over_plain_minus_1"].values()
    )
    less = f"{-gpu['multilingual_mAP_ours_minus_plain']:.3f}".removeprefix("0")
    worse = f"{more[0]} and {more[1]} % more held-out loss, {less} less mAP"
    assert (
        f"slower than the stock trainer's ({ratio} times its pairs per second on an H100)" in text
        and worse in text
    )
    ours, least = (
        found[f"evaluation_speed{name}"]["encoding"]["speed_over_defaults"]["median"]
        for name in ("", "_float32")
    )
    assert least < ours and re.search(
        rf"encoded {least:.1f} times as fast .*, {ours:.1f} times on a processor that is", text
    )
    evaluation = found["evaluation_speed"]["evaluation"]
    product, other = (
        evaluation["evaluation_over_product"]["median"],
        evaluation["pytrec_eval"]["over_evaluation"],
    )
    assert (
        f"take {product:.1f} times the bare matrix product; pytrec_eval takes {other:.0f} times as"
        " long" in text
    )
    scale = found["search_scale"]
    search, gigabytes = scale["k=100"]["search"], [scale["write"]["peak_anonymous"] / 1e9]
    gigabytes.append(search["peak_anonymous"] / 1e9)
    assert (
        f"on one core in {search['seconds']:.0f} seconds with {gigabytes[1]:.2f} GB besides the"
        " mapped files" in text
    )
    assert f"the shards of {scale['shard_rows']:,} takes {gigabytes[0]:.2f} GB" in text
    assert search["rows_differing"] == scale["k=1000"]["search"]["rows_differing"] == 0
    plain, hashed = (
        found["sampler_speed"]["targets"][f"times NO_DUPLICATES{name}"]
        for name in (", at least 20", "_HASHED, at least 4")
    )
    assert (
        f"{plain:.0f} times the batches per second of sentence-transformers' `NO_DUPLICATES` and"
        f" {hashed} times" in text
    )
    lines = {
        line["sampler"]: line for line in found["sampler_speed"]["lines"] if line["rows"] == 999_999
    }
    seconds = lines["ours"]["epoch_seconds"] + lines["ours"]["table_checks_seconds"]
    large = found["sampler_speed"]["lines"][-1]
    assert f"has {large['bytes_per_row']} bytes per id and language" in text
    assert (
        f"in {large['epoch_seconds']:.0f} seconds, {large['microseconds_per_batch']:.0f} µs a batch"
        in text
    )
    assert f"a million rows take {lines['ours']['microseconds_per_batch']:.0f} " in text
    opened = lines["NO_DUPLICATES_HASHED"]["epoch_seconds"] / seconds
    assert f"{opened:.1f} times the latter's if the checks" in text


def test_the_committed_card_says_what_its_numbers_say() -> None:
    folder = REPO / "figures" / "bias_card"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (folder / "README.md").read_text(encoding="utf-8") == render("card.md", card, {})
    page = (folder / "card.html").read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert render("card.html", card, dict(zip(figures(card), pictures, strict=True))) == page
    assert "<script" not in page and all(
        b64decode(picture).startswith(b"\x89PNG") for picture in pictures
    )
