"""The README.md of a finished model, made from its `run.json` alone by the template card.jinja.

The front matter is what the Hugging Face hub reads. The card says what the model is, on what it was
trained and how, what that did to held-out pairs, and how to use it. It computes nothing and opens
no model; sentence-transformers' own card data would need one, so the front matter is that of its
parent, `huggingface_hub.ModelCardData`.
"""

from pathlib import Path
from typing import Any

from xir_lib.samplers.strategies import Strategy
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
TAGS = [
    *("sentence-transformers", "feature-extraction", "sentence-similarity"),
    *("dense-retrieval", "multilingual", "xir"),
]


def model_card(run: dict[str, Any], name: str) -> str:
    """Return the README of the model in folder `name`, from its `run.json`."""
    import jinja2

    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"count": "{:,}".format, "number": _number, "setting": _setting}
    template = environment.from_string(Path(__file__).with_name("card.jinja").read_text("utf-8"))
    pairs, prompts = run["pairs"], zip(run["prompts"], ("query", "passage"), strict=True)
    sets = ", ".join(f"{name} ({size['ids']:,} ids)" for name, size in pairs["datasets"].items())
    told = [f"{key} {value}" for key, value in run["environment"].items()]
    return template.render(
        run,
        name=name,
        front=_front_matter(run),
        # a path belongs to one machine
        encoder=run["encoder"] if run["base_model"] else Path(run["encoder"]).name,
        strategy=strategy_definition(run["settings"]["strategy"]),
        prompts=[f"`{text}` before a {role}" for text, role in prompts if text],
        data=f"{': '.join(filter(None, (pairs['name'], sets)))}. " if pairs["name"] else "",
        trained_languages=sorted(run["realised"]["query_lang"] | run["realised"]["doc_lang"]),
        versions=[text for text in told if text.split()[0] not in ("device", "threads")],
    )


def strategy_definition(name: str) -> str:
    """Say what a batch of the strategy holds, by the name of a run.

    >>> strategy_definition("hybrid-row-0.5")
    'each pair is with probability 0.5 in one language, else in two different ones'
    """
    strategy, alpha = parse_strategy(name)
    return DEFINITIONS[strategy].format(alpha=alpha, pivot=pivot_of(name))


def hub_name(encoder: str) -> str | None:
    """Return the hub's name of an encoder, for there to be one.

    A folder of this machine has none, nor have the first layers of an encoder.

    >>> hub_name("bundled:multilingual-e5-small")
    'intfloat/multilingual-e5-small'
    """
    if Path(encoder).expanduser().is_dir() or encoder.endswith("-first6"):
        return None
    return encoder.replace("bundled:multilingual-e5-", "intfloat/multilingual-e5-")


def _front_matter(run: dict[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=TAGS,
        base_model=run["base_model"],
        language=sorted({lang.split("-")[0] for lang in run["pairs"]["languages"]}),
    ).to_yaml()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return f"`{value}`"
