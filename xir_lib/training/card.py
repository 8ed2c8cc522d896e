"""The README.md of a finished model, made from its `run.json` alone.

The front matter is what the Hugging Face hub reads. The card says what the model is, on what it was
trained and how, what that did to held-out pairs, and how to use it. It computes nothing and knows
no model.
"""

from pathlib import Path
from typing import Any

import yaml

from xir_lib.samplers.strategies import Strategy
from xir_lib.training.held_out import BOUNDS
from xir_lib.training.settings import parse_strategy, pivot_of

DEFINITIONS = {
    Strategy.X_X_MONO: "one language per batch; queries and passages are in it",
    Strategy.EN_EN: "every query and every passage is in {pivot}",
    Strategy.X_X: (
        "query and passage of a pair are in the same language; a batch mixes the languages"
    ),
    Strategy.X_Y: (
        "query and passage of a pair are in different languages; a batch mixes the languages"
    ),
    Strategy.X_Y_PAIR: "one query language and one other passage language per batch",
    Strategy.HYBRID: (
        "with probability {alpha:g} a batch is `x-x-mono` (one language), else `x-y` (query and"
        " passage of each pair in different languages)"
    ),
    Strategy.HYBRID_ROW: (
        "each pair is with probability {alpha:g} in one language, else in two different ones"
    ),
}
CITATION = """\
@misc{elmahdy2024synergistic,
  title = {Synergistic Approach for Simultaneous Optimization of Monolingual, Cross-lingual,
           and Multilingual Information Retrieval},
  author = {Elmahdy, Adel and Lin, Sheng-Chieh and Ahmad, Amin},
  year = {2024},
  eprint = {2408.10536},
  archivePrefix = {arXiv}
}"""


def model_card(run: dict[str, Any], name: str) -> str:
    """Return the README of the model in folder `name`, from its `run.json`."""
    front = yaml.safe_dump(_front_matter(run), sort_keys=False, allow_unicode=True)
    settings, pairs = run["settings"], run["pairs"]
    encoder = (
        run["encoder"] if run["base_model"] else Path(run["encoder"]).name
    )  # a path belongs to one machine
    sets = [f"{name} ({size['ids']:,} ids)" for name, size in pairs["datasets"].items()]
    data = f"{pairs['name']}{': ' if sets else ''}{', '.join(sets)}. " if pairs["name"] else ""
    stopped = ""
    if stopping := run["early_stopping"]:
        stopped = (
            f" at most, stopped after {run['steps_trained']:,}; the weights are those of step"
            f" {stopping['best_step']:,}"
        )
    sections = [
        f"---\n{front}---",
        f"# {name}",
        (
            "A dual encoder for multilingual dense retrieval: queries and passages become vectors,"
            f" the cosine ranks. It is `{encoder}`, trained further with the batch strategy"
            f" `{settings['strategy']}`: {strategy_definition(settings['strategy'])}. The other"
            f" passages of a batch are the negatives (InfoNCE).{_additions(settings)}"
        ),
        "## Use",
        _use(run["prompts"], name),
        "## Training",
        (
            f"{data}{pairs['ids']:,} ids with {pairs['rows']:,} (id, language) rows in"
            f" {len(pairs['languages'])} languages: {', '.join(pairs['languages'])}. sha256 of the"
            f" pairs: `{run['pairs_sha256']}`. {settings['steps']:,} steps{stopped},"
            f" {run['seconds']:,.0f} s on {run['environment']['device']}."
        ),
        _table(["setting", "value"], [[key, _value(value)] for key, value in settings.items()]),
        "The mix of languages that the batches had:",
        _mix(run["realised"]),
        "## Held-out pairs",
        _held_out(run),
        "## Versions",
        ", ".join(
            f"{key} {value}"
            for key, value in run["environment"].items()
            if key not in ("device", "threads")
        )
        + ".",
        "## Citation",
        f"The method is that of arXiv 2408.10536:\n\n```bibtex\n{CITATION}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def strategy_definition(name: str) -> str:
    """Say what a batch of the strategy holds, by the name of a run.

    >>> strategy_definition("hybrid-row-0.5")
    'each pair is with probability 0.5 in one language, else in two different ones'
    """
    strategy, alpha = parse_strategy(name)
    return DEFINITIONS[strategy].format(alpha=alpha, pivot=pivot_of(name))


def _additions(settings: dict[str, Any]) -> str:
    text = (
        " Every id was kept in one language, so nothing was parallel."
        if settings["one_language_per_id"]
        else ""
    )
    if count := settings["negatives"]:
        text += f" {count} hard negative{'s' * (count > 1)} per pair stood among them."
    if settings["query_kl"]:
        text += (
            " A symmetric KL divergence drew the scores of parallel queries together (arXiv"
            " 2509.06195)."
        )
    return text


def hub_name(encoder: str) -> str | None:
    """Return the hub's name of an encoder; a folder of this machine has none, nor have the first
    layers of one.
    """
    if Path(encoder).expanduser().is_dir() or encoder.endswith("-first6"):
        return None
    return encoder.replace("bundled:multilingual-e5-", "intfloat/multilingual-e5-")


def _front_matter(run: dict[str, Any]) -> dict[str, Any]:
    languages = {lang.split("-")[0] for lang in run["pairs"]["languages"]}
    tags = [
        "sentence-transformers",
        "feature-extraction",
        "sentence-similarity",
        "dense-retrieval",
        "multilingual",
    ]
    front = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": [*tags, "xir"],
    }
    base = {"base_model": run["base_model"]} if run["base_model"] else {}
    return {**front, **base, "language": sorted(languages)}


def _use(prompts: list[str], name: str) -> str:
    lines = [
        "from sentence_transformers import SentenceTransformer",
        f'model = SentenceTransformer("{name}")  # the path of this folder',
        'queries = model.encode(["What is the capital of Kenya?"], prompt_name="query")',
        (
            'passages = model.encode(["Nairobi ni mji mkuu wa Kenya.", "Nairobi is in Kenya."],'
            ' prompt_name="passage")'
        ),
        "print(model.similarity(queries, passages))",
    ]
    said = [
        f"`{prompt}` before a {role}"
        for role, prompt in zip(("query", "passage"), prompts, strict=True)
        if prompt
    ]
    prefix = (
        f"The prompts put {' and '.join(said)}, as in training."
        if said
        else "The model needs no prompts."
    )
    return "```python\n" + "\n".join(lines) + f"\n```\n\n{prefix}"


def _mix(realised: dict[str, dict[str, int]]) -> str:
    queries, passages, kinds = realised["query_lang"], realised["doc_lang"], realised["pairs"]
    rows = [
        [lang, f"{queries.get(lang, 0):,}", f"{passages.get(lang, 0):,}"]
        for lang in sorted(queries.keys() | passages.keys())
    ]
    total = (
        f"{kinds['same-language']:,} pairs were in one language, {kinds['cross-language']:,} in"
        " two."
    )
    return _table(["language", "queries", "passages"], rows) + "\n\n" + total


def _held_out(run: dict[str, Any]) -> str:
    loss, ranking = run["held_out_loss"], run["held_out_ranking"]
    if not loss:
        return (
            "No pairs were held out. `xir evaluate --model FOLDER --task NAME --out DIR` measures"
            " retrieval and language bias."
        )
    before, after = ranking["before"], ranking["after"]
    rows = [
        [f"loss, {kind} batches", _number(loss["before"][kind]), _number(loss["after"][kind])]
        for kind in loss["after"]
    ]
    rows += [
        [key, _number(before[key]), _number(after[key])]
        for key in ("multilingual mAP", "monolingual mAP")
    ]
    measures = [
        [
            name,
            _number(before["bias"][name]["mean"]),
            _number(found["mean"]),
            *(_number(found[bound]) for bound in BOUNDS),
        ]
        for name, found in after["bias"].items()
    ]
    bias = [
        _table(
            ["language bias", "before", "after", *(bound.replace("_", " ") for bound in BOUNDS)],
            measures,
        ),
        (
            "Rank distance is the highest minus the lowest rank of a query's relevant passages;"
            " Max@R says on a scale from 0 to 100 how early all of them are found, Complete@20 for"
            " which share of the queries the first 20 hold all. *Own language first* is the share"
            " of queries whose own-language passage leads the others. The last three columns are an"
            " ideal ranking, a random one, and one that puts the query's language before all"
            " others."
        ),
    ]
    return "\n\n".join(
        [
            (
                f"{after['ids']} ids that no batch held: {after['queries']:,} queries against one"
                f" pool of {after['passages']:,} passages in all languages, before and after"
                " training."
            ),
            _table(["", "before", "after"], rows),
            (
                "Relevant are the passages of the query's id in every language. The pool is small,"
                " so these numbers are no benchmark; `xir evaluate` makes one."
            ),
            *(bias if measures else []),
        ]
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _value(value: Any) -> str:
    return (
        ", ".join(f"{key} {part}" for key, part in value.items())
        if isinstance(value, dict)
        else f"`{value}`"
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
