"""The bias card: its numbers are those of a literal ranking, its page stands alone, and it is
written whole or not at all.
"""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_cli import xir
from tiny import build_tiny
from toy import IDS, LANGS, judge, toy_task

from xir_lib.data.records import RetrievalTask
from xir_lib.encoders.encoder import Encoder
from xir_lib.evaluation import card as bias_report
from xir_lib.evaluation.card import write_card


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return str(build_tiny(tmp_path_factory.mktemp("a<b> & c")))


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_sentences_say_what_a_literal_ranking_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    task, out = toy_task(), tmp_path / "out"
    task.save(tmp_path / "toy")
    capsys.readouterr()
    command = ["bias", "--model", model, "--task", tmp_path / "toy", "--out", out, "--json"]
    assert xir(monkeypatch, *command) == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads((out / "card.json").read_text())
    encoder = SentenceTransformer(model, device="cpu")
    queries, passages = task.queries.to_pylist(), task.passages.to_pylist()
    asking = encoder.encode(["query: " + row["text"] for row in queries])
    scores = asking @ encoder.encode(["passage: " + row["text"] for row in passages]).T
    first, distance, own = ({lang: [] for lang in LANGS} for _ in range(3))
    for query, row in zip(queries, scores, strict=True):
        order = [passages[i] for i in np.argsort(-row)]
        rank = {d["lang"]: i for i, d in enumerate(order) if d["doc_id"][:2] == query["pair_id"]}
        first[query["lang"]].append(min(rank, key=rank.__getitem__) == query["lang"])
        distance[query["lang"]].append(max(rank.values()) - min(rank.values()))
        own[query["lang"]].append(np.mean([d["lang"] == query["lang"] for d in order[:10]]))
    f, d, o = (np.mean([np.mean(v) for v in part.values()]) for part in (first, distance, own))
    text = " ".join(card["findings"])
    assert f"For {f:.0%} of the questions" in text
    assert "without preference that would be 33%" in text  # 1 / 3
    assert f"are {d:.1f} ranks apart" in text
    assert "2 would be perfect, 30.5 chance" in text  # 61 * 2 / 4
    assert f"Of the first 10 passages {o:.0%} are in the query's language" in text
    rows = {row["query language"]: row for row in card["languages"]}
    assert {lang: row["rank distance"] for lang, row in rows.items()} == pytest.approx(
        {k: np.mean(v) for k, v in distance.items()}
    )
    assert [row["rank distance"] for row in card["languages"]] == sorted(
        (np.mean(v) for v in distance.values()), reverse=True
    )
    assert {row["own answer first"] for row in rows.values()} == {
        np.mean(v) for v in first.values()
    }


def test_the_fixes_are_evaluations(model: str, tmp_path: Path) -> None:
    card = write_card(model, toy_task(), tmp_path / "out")
    encoder = Encoder(model)
    for row, rival in zip(card["fixes"], ("none", "round-robin", "centring"), strict=True):
        expected = judge(encoder, toy_task(), tmp_path / "one", rival, "cross-fit")
        assert card["results"][rival]["settings"] == expected["settings"]
        assert row["multilingual mAP"] == expected["settings"]["multilingual"]["mAP"]
        assert row["monolingual mAP"] == expected["settings"]["monolingual"]["mAP"]
        assert row["rank distance"] == expected["bias"]["rank_distance"]["mean"]
    # The means of the heatmap's diagonal and of all else are the two settings.
    assert set(card["cells"]) == set(LANGS)
    assert all(set(pools) == set(LANGS) for pools in card["cells"].values())
    settings = card["results"]["none"]["settings"]
    assert np.mean([card["cells"][lang][lang] for lang in LANGS]) == pytest.approx(
        settings["monolingual"]["mAP"]
    )
    others = [card["cells"][a][b] for a in LANGS for b in LANGS if a != b]
    assert np.mean(others) == pytest.approx(settings["cross-lingual"]["mAP"])


def test_the_page_stands_alone_and_says_the_same_as_the_others(model: str, tmp_path: Path) -> None:
    card = write_card(model, toy_task(), tmp_path)
    text, markdown = (tmp_path / "card.html").read_text(), (tmp_path / "card.md").read_text()
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "iframe", "b"} & set(tags)  # the model's name holds <b>
    told = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not [value for value in told if re.search(r"https?:|//", value[:99])]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 and all(image["alt"] for image in images)
    for image in images:
        kind, data = str(image["src"]).split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[:8] == b"\x89PNG\r\n\x1a\n"
    words = " ".join(page.words)
    assert (
        f"Language bias of {model}" in words and f"Language bias of {model}" in markdown
    )  # its name holds < and &
    assert "Measured on toy: 60 queries and 60 passages in 3 languages" in words
    assert "xir train --encoder '" in words  # a name with blanks is quoted
    for text in [*card["findings"], *card["advice"], *(row["says"] for row in card["measures"])]:
        assert text in words and text in markdown
    assert [row["measure"] for row in card["measures"]] == [  # no Complete@100 in a pool of 60
        *("rank distance", "Max@R", "Complete@20", "one-target gap"),
        *("own language in the top 10", "evenness of the top 10", "own answer first"),
    ]
    assert all(
        isinstance(row[key], float)
        for row in card["measures"]
        for key in ("value", "ideal", "random", "same_language_first")
    )


def select(
    task: RetrievalTask, query_langs: str, doc_langs: str, own: bool = False
) -> RetrievalTask:
    """Keep the queries and passages of some languages, and only judgements that stay within one if
    `own`.
    """
    parts = [
        part.filter(pa.array([row["lang"] in langs for row in part.to_pylist()]))
        for part, langs in ((task.queries, query_langs), (task.passages, doc_langs))
    ]
    keep = [
        row["query_id"][-2:] in query_langs
        and row["doc_id"][-2:] in doc_langs
        and (not own or row["query_id"] == row["doc_id"])
        for row in task.qrels.to_pylist()
    ]
    return RetrievalTask("part", *parts, task.qrels.filter(pa.array(keep)))


@pytest.mark.parametrize(
    ("task", "fixes", "pictures"),
    [
        (select(toy_task(), "xx yy zz", "xx yy zz", own=True), 3, {"heatmaps"}),
        (select(toy_task(), "xx", "xx"), 1, set()),
        (select(toy_task(), "xx yy", "zz"), 1, set()),  # no query in the pool's language
        (select(toy_task(), "xx", "yy zz"), 3, {"rank distance", "heatmaps"}),
        (
            toy_task(ids=IDS[:5]),
            2,
            {"rank distance", "heatmaps"},
        ),  # one group: nothing to fit a mean on
    ],
)
def test_tasks_that_miss_something(
    model: str, tmp_path: Path, task: RetrievalTask, fixes: int, pictures: set[str]
) -> None:
    card = write_card(model, task, tmp_path)
    assert (len(card["fixes"]), set(bias_report.figures(card))) == (fixes, pictures)
    assert card["parallel"] == ("rank distance" in pictures)
    assert card["parallel"] == (not any("is not parallel" in text for text in card["findings"]))
    names = {row["measure"] for row in card["measures"]}
    assert card["parallel"] or not names & {
        "rank distance",
        "Max@R",
        "Complete@20",
        "one-target gap",
        "own answer first",
    }
    assert (fixes == 2) == any("cross-fit needs a group" in sentence for sentence in card["advice"])
    assert (
        "nan" not in (tmp_path / "card.md").read_text()
        and Page((tmp_path / "card.html").read_text()).tags
    )


def test_a_language_without_parallel_answers_is_not_the_best_served(
    model: str, tmp_path: Path
) -> None:
    task = toy_task()
    asked = task.queries.to_pylist()
    asked += [
        row | {"query_id": f"{row['pair_id']}-{lang}", "lang": lang}
        for lang in ("vv", "ww")
        for row in asked
        if row["lang"] == "xx"
    ]
    queries = pa.Table.from_pylist(asked, schema=task.queries.schema)
    judged = [
        {"query_id": row["query_id"], "doc_id": f"{row['pair_id']}-{lang}", "relevance": 1}
        for row in asked
        for lang in (
            ["xx"] if row["lang"] == "ww" else LANGS
        )  # of ww's questions one answer is there
    ]
    qrels = pa.Table.from_pylist(judged, schema=task.qrels.schema)
    card = write_card(model, RetrievalTask("five", queries, task.passages, qrels), tmp_path)
    (sentence,) = [text for text in card["findings"] if text.startswith("Worst served")]
    assert "ww" not in sentence and "()" not in sentence


def test_written_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    toy_task().save(tmp_path / "toy")
    command = ["bias", "--model", model, "--task", tmp_path / "toy", "--out", tmp_path / "out"]
    assert xir(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert "ranks apart" in out and f"The page: {tmp_path / 'out' / 'card.html'}" in out
    with monkeypatch.context() as broken:
        broken.setattr(bias_report, "png", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_card(model, toy_task(), tmp_path / "out")
    assert not [
        path for path in (tmp_path / "out").iterdir() if path.name.startswith((".", "card"))
    ]
    (tmp_path / "file").write_text("mine")
    capsys.readouterr()
    assert xir(monkeypatch, *command[:-1], tmp_path / "file") == 2
    error = capsys.readouterr().err
    assert "file is a file; --out names a folder" in error and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"
