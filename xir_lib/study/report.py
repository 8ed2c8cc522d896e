"""What a reader sees first: the findings in sentences, the HTML report around the notebooks, the
README's numbers.
"""

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from xir_lib.evaluation.compare import MARGIN
from xir_lib.metrics.bias import RANK_DISTANCE
from xir_lib.metrics.measures import SETTINGS
from xir_lib.metrics.significance import A_BETTER, B_BETTER, EQUIVALENT, NON_INFERIOR
from xir_lib.paths import atomic_path, is_build, replace_folder
from xir_lib.repair.kinds import kind_of
from xir_lib.study import claims, designs, factors, low_resource, miracl_tables, mixed_pools
from xir_lib.study.paper_tables import CAVEAT, overview, rounded, two_rows
from xir_lib.study.profile import Study
from xir_lib.study.results import Results, load_results
from xir_lib.study.tables import (
    advantage,
    decision_table,
    interval_scope,
    main_table,
    primary_family,
    repairs,
    scope_by_row,
    tasks_of,
)

FAMILY = [
    "task",
    "a",
    "b",
    "setting",
    "measure",
    "difference",
    "low",
    "high",
    "p_holm",
    "verdict",
]  # shown of the family
ADVANTAGE = (
    "The hybrid minus every other strategy and minus the encoder as it is, with 95 % intervals;"
    " *both with*: the free fix on both sides. A lower rank distance is better."
)
LEGEND = (
    "One line per strategy and free fix, from the value without the fix to that with it. Hollow:"
    " centred vectors; diamond: merged rankings, which change the multilingual setting alone."
)
REPAIRS = (
    "Differences in mAP from the encoder as it is; the monolingual ones with 95 % intervals."
    " *Language known of*: the texts whose language must be known when searching. Minutes are those"
    " of training on the machine of the runs."
)
PAIRS = (
    "mAP in the pool of one language (*alone*), in the pool of all without the other languages'"
    " answers (*among*), and *keep*, the share that is left, with its 10th percentile over the"
    " pairs of two languages and the worst of them. 95 % intervals over groups of questions alone,"
    " whatever the number of seeds; the worst of many pairs has none."
)
VARIANTS = (
    "Each variant minus the encoder as it is, `x-x-mono` and the hybrid. "
    + ADVANTAGE.split(". ", 1)[1]
)
PARALLEL = (
    "`x-x-mono` on 64 parallel ids minus `disjoint`, which has as many texts, each of another id,"
    " and reads them as often; 95 % intervals:"
)
MACHINES = (
    "`alpha` and `two_by_two` share three strategies and the encoder as it is, with the same data,"
    " settings and seed. The first was computed in float32, the second in bfloat16 on another"
    " processor. mAP without free fix, per task and setting."
)
LEDGER = (
    "*a* minus *b*, as named, with 95 % intervals. *Paper*: its difference with XLM-R. Per cent of"
    " a rank distance: of *b*'s. *p*: of a difference, in 11 of non-inferiority, so that 1.000"
    " there is no sign of equality. *Smallest to be found*: by a single test against 0, with"
    " power .8."
)
REPLICA = "`replica` repeats `parallel` on a GPU."
ADDED = (
    "Half of the batches from MLQA and half from Atlas-QA (`mlqa_atlas`), minus as many from MLQA"
    " alone (`matched`), in the seeds that both have. A lower rank distance is better."
)
NEAR = (
    "Trained on MLQA without the ids that have a near-duplicate in a test (`apart`), minus with"
    " them (`matched`), in the seeds that both have: every strategy, then the hybrid's lead over"
    " the pure ones. A lower rank distance is better."
)
TUNED = (
    "The hybrid minus the pure strategies and the encoder as it is, each at the settings chosen for"
    " it; with a free fix on both sides those chosen with that fix. " + ADVANTAGE.split(". ", 1)[1]
)
READERS = ("03_zero_shot_retrieval", "04_low_resource_miracl", "05_language_bias", "07_claims")


def findings(results: Results) -> list[str]:
    """Return the report's first sentences, a null result first; every number is computed here from
    the results.
    """
    family = primary_family(results)
    mine = family["verdict"][family["task"].isin(tasks_of(results))]
    scope = f" over {len(family)} tests" if len(family) > len(mine) else ""
    sentences = [
        _counted(mine, f"Holm-adjusted p{scope}, 95 % intervals over {interval_scope(results)}")
    ]
    for task in tasks_of(results):
        table = main_table(results, task).set_index(["strategy", "free fix"])["multilingual mAP"]
        parts = [f"{table['none', 'none']:.3f} off the shelf"]
        free = [rival for rival in results.study.rivals if rival != "none"]
        if free:
            fixed = ", ".join(f"{table['none', rival]:.3f} with {rival}" for rival in free)
            parts.append(f"without any training {fixed}")
        trained = table[
            [
                name
                for name in table.index
                if name[0] in results.study.strategies and name[1] == "none"
            ]
        ]
        parts.append(f"{trained.min():.3f} to {trained.max():.3f} after training")
        if free:
            both = table[
                [
                    name
                    for name in table.index
                    if name[0] in results.study.strategies and name[1] != "none"
                ]
            ]
            parts.append(f"{both.min():.3f} to {both.max():.3f} with both")
        sentences.append(f"Multilingual mAP on {task}: {'; '.join(parts)}.")
    return sentences


def _counted(verdicts: pd.Series, scope: str) -> str:
    counts = {
        name: int((verdicts == name).sum())
        for name in (A_BETTER, B_BETTER, EQUIVALENT, NON_INFERIOR)
    }
    better, worse, equal, not_worse = counts.values()
    rest = (
        f"{equal} equivalent within {MARGIN} mAP, {f'{not_worse} not worse, ' if not_worse else ''}"
    )
    rest += f"{len(verdicts) - sum(counts.values())} undecided ({scope})."
    if not better + worse:
        return (
            f"None of {len(verdicts)} comparisons of hybrid batches with the pure strategies finds"
            f" a difference: {rest}"
        )
    what = f"Hybrid batches against the pure strategies, {len(verdicts)} comparisons"
    return f"{what}: {better} in their favour, {worse} against, {rest}"


def write_report(study: Study, build: Path) -> Path:
    """Turn the executed notebooks into HTML pages behind an index that begins with question,
    answer, figure and table.
    """
    import nbformat
    from nbconvert import HTMLExporter

    build = Path(build)
    results = load_results(build / "results")
    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.mathjax_url = exporter.require_js_url = ""  # the report must open without a network
    with replace_folder(build / "report", lambda folder: is_build(folder.parent)) as temporary:
        temporary.mkdir()
        links = []
        trained = [
            f"02_train_strategy-{run}" for run in study.runs if run not in ("none", "untrained")
        ]
        for name in ("01_data_preparation", *trained, *READERS):
            path = build / "notebooks" / f"{name}.ipynb"
            notebook = without_stderr(nbformat.read(path, as_version=4))
            body, _ = exporter.from_notebook_node(notebook)
            (temporary / f"{path.stem}.html").write_text(body, encoding="utf-8")
            lines = (line for cell in notebook.cells for line in cell.source.splitlines())
            title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")
            links.append(
                f'<li><a href="{path.stem}.html">{path.stem}</a>: {html.escape(title)}</li>'
            )
        template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
        page = template.substitute(
            profile=study.profile,
            answer="".join(f"<p>{html.escape(sentence)}</p>" for sentence in findings(results)),
            figure=base64.b64encode(
                (build / "figures" / "03_strategies.png").read_bytes()
            ).decode(),
            tables=_html(
                advantage(results).replace(", ", ",\u00a0", regex=True),
                ADVANTAGE.replace("*", ""),
                classes="adds",
            )
            + "".join(_html_task(results, evaluation.task) for evaluation in study.evaluations)
            + _html_summary(results),
            how=html.escape(provenance(results)),
            links="".join(links),
        )
        (temporary / "index.html").write_text(page, encoding="utf-8")
    return build / "report" / "index.html"


def without_stderr(notebook: Any) -> Any:
    """Drop progress bars and warnings from a notebook's outputs, in place; what a cell says it
    prints.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def execute_notebooks(folder: Path) -> None:
    """Execute every notebook of a folder in place with its defaults and keep the outputs: how the
    committed ones are made.
    """
    import nbformat
    from nbconvert.preprocessors import ExecutePreprocessor
    from tqdm.auto import tqdm

    for path in tqdm(sorted(Path(folder).glob("*.ipynb")), unit="notebook"):
        notebook = nbformat.read(path, as_version=4)
        ExecutePreprocessor(timeout=900).preprocess(notebook, {"metadata": {"path": str(folder)}})
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times would change at every run
        with atomic_path(path) as temporary:
            temporary.write_text(
                same_at_every_run(nbformat.writes(without_stderr(notebook))) + "\n",
                encoding="utf-8",
            )


def same_at_every_run(text: str) -> str:
    """Number the random ids of styled tables and leave out addresses in memory, so that a
    notebook's diff shows its results.
    """
    for number, name in enumerate(dict.fromkeys(re.findall(r"\bT_[0-9a-f]{5}(?![0-9a-f])", text))):
        text = text.replace(name, f"table{number}")
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def provenance(results: Results) -> str:
    """Say in one sentence what made these results: encoder, data, steps, seeds, device and
    versions.
    """
    study, first = results.study, results.runs[0]

    def every(part: str, name: str) -> str:
        """Join the values that the runs have, in the order in which they come."""
        return " and ".join(dict.fromkeys(str(run[part][name]) for run in results.runs))

    halved = [
        one["settings"]["seed"]
        for one in results.runs
        if one["environment"].get("precision") == "bfloat16"
    ]
    some = (
        f" for seeds {', '.join(map(str, sorted(set(halved))))}"
        if len(halved) < len(results.runs)
        else ""
    )
    half = f"bfloat16 autocast{some}, " if halved else ""
    return (
        f"Profile {study.profile}: {study.encoder}, {every('settings', 'steps')} steps of"
        f" {every('settings', 'batch_size')} pairs from {study.data.source}"
        f" ({first['pairs']['ids']:,} ids), learning rate {every('settings', 'learning_rate')},"
        f" temperature {every('settings', 'temperature')}, seeds"
        f" {', '.join(map(str, study.seeds))}; {every('environment', 'device')}, {half}Python"
        f" {every('environment', 'python')}, torch {every('environment', 'torch')},"
        f" sentence-transformers {every('environment', 'sentence-transformers')}."
    )


def readme_blocks(results: Results, text: str) -> dict[str, str]:
    """Return the parts of a profile that the README, `text`, has marks for: `findings`, `tables`,
    ..., as Markdown.
    """
    parts = {"findings": _findings_block, "tables": _first_tables, "repairs": _repairs_block}
    wanted = re.findall(rf"<!-- {re.escape(results.study.profile)} (\w+) -->", text)
    return {name: part(results) for name, part in parts.items() if name in wanted}


def _findings_block(results: Results) -> str:
    return "\n".join(f"- {sentence}" for sentence in findings(results))


def _repairs_block(results: Results) -> str:
    return "\n".join(_markdown(decision_table(results)))


def _advantage_block(results: Results) -> str:
    return "\n".join(_markdown(advantage(results)))


def _pairs_block(results: Results) -> str:
    """Say what the hybrid does to pairs of languages, task by task, with tables of how robust they
    are.
    """
    lines: list[str] = []
    for task in tasks_of(results):
        told = low_resource.answers(results, {task: low_resource.pair_comparisons(results, task)})[
            :1
        ]
        lines += ["", *told, ""]
        table = low_resource.keep_table(results, task)
        for name, bounds in (("keep", ("low", "high")), ("p10", ("p10 low", "p10 high"))):
            numbers = zip(*(table[column] for column in (name, *bounds)), strict=True)
            table[name] = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in numbers]
        columns = [
            "strategy",
            "free fix",
            "mAP alone",
            "mAP among",
            "keep",
            "p10",
            "worst pair",
            "its keep",
        ]
        lines += _markdown(table[columns])
    return "\n".join(lines[1:])


def _first_tables(results: Results) -> str:
    """Return figure, what the hybrid adds, and what the paper printed."""
    profile = results.study.profile
    lines = [
        (
            "![mAP of every strategy and free fix in the three"
            f" settings](figures/{profile}/03_strategies.png)"
        ),
        "",
    ]
    lines += [LEGEND, "", provenance(results), "", ADVANTAGE, "", _advantage_block(results), ""]
    beside = overview(results)
    if len(beside):
        lines += [
            f"Means over languages beside the paper's (it has {CAVEAT}, and no row `none`):",
            "",
            *_markdown(beside),
            "",
        ]
    lines.append(
        "Every task, fix and repair, with intervals:"
        f" [figures/{profile}](figures/{profile}/README.md)."
    )
    return "\n".join(lines)


def profile_page(results: Results) -> str:
    """Return the Markdown page of a published profile: findings, the figure, and the tables of
    every task.
    """
    lines = [
        f"# Profile {results.study.profile}",
        "",
        _findings_block(results),
        "",
        provenance(results),
        "",
    ]
    lines += ["![mAP of every strategy and free fix in the three settings](03_strategies.png)", ""]
    lines += ["## What the hybrid adds", "", ADVANTAGE, "", _advantage_block(results), ""]
    for evaluation in results.study.evaluations:
        lines += [f"## {evaluation.task}", "", *_markdown(main_table(results, evaluation.task)), ""]
    lines += [
        "## The hybrid against the pure strategies, adjusted",
        "",
        f"95 % intervals over {interval_scope(results)}; Holm-adjusted p; margin {MARGIN} mAP:",
        "",
    ]
    lines += [
        *_markdown(primary_family(results)[FAMILY]),
        "",
        "## What each repair does",
        "",
        REPAIRS,
        "",
    ]
    lines += [
        *_markdown(decision_table(results)),
        "",
        "## Pairs of languages",
        "",
        PAIRS,
        "",
        _pairs_block(results),
    ]
    against = repairs(results)
    if len(against):
        lines += ["", "## Repairs that cost no training, against each other", ""]
        lines += [
            "a minus b, on the untouched encoder; mAP in the pool of all languages:",
            "",
            *_markdown(against),
        ]
    beside = overview(results)
    if len(beside):
        lines += [
            "",
            "## Beside the paper's printed means",
            "",
            f"It has {CAVEAT}, and no row `none`.",
            "",
            *_markdown(beside),
        ]
    return "\n".join([*lines, ""])


def miracl_block(folder: Path) -> str:
    """Return the page's part on one MIRACL language: our systems, the strategies of each profile,
    published figures.

    Evaluations without titles are looked for beside `folder`, in one of its name with `-untitled`.
    """
    topics = miracl_tables.read_topics(folder)
    systems = miracl_tables.system_table(topics)
    lines = [scope_by_row(systems["seeds"], "topics"), "", *_markdown(systems), ""]
    lines += [f"Judged on {miracl_tables.machines(folder)}.", ""]
    if len(pairs := miracl_tables.pair_table(topics)):
        lines += [
            "nDCG@10 of the strategies of one profile, a minus b in the same seeds:",
            "",
            *_markdown(pairs),
            "",
        ]
    if len(trained := miracl_tables.training_table(topics)):
        lines += [
            "nDCG@10 of one strategy on two profiles' training text, a minus b in the same seeds:",
            "",
        ]
        lines += [*_markdown(trained), ""]
    if len(fixed := miracl_tables.fix_table(topics)):
        lines += ["nDCG@10 with a free fix minus that without:", "", *_markdown(fixed), ""]
    if (untitled := folder.with_name(f"{folder.name}-untitled")).exists():
        variants = miracl_tables.variant_table(topics, miracl_tables.read_topics(untitled))
        lines += [
            "Passages without their titles, minus those with them:",
            "",
            *_markdown(variants),
            "",
        ]
    lines += [
        "Published, on the same corpus and topics (zero_shot no: trained on MIRACL itself):",
        "",
    ]
    found = miracl_tables.published(topics["task"].iloc[0].removeprefix("miracl-"))
    return "\n".join([*lines, *_markdown(found)])


def mixed_block(folder: Path) -> str:
    """Return the README's part on mixed pools at the largest foreign share, as Markdown; `folder`
    is for `mixed_pools.read`.
    """
    pools = mixed_pools.read(folder)
    table = mixed_pools.cost_table(pools)
    most = table[table["share"] == table["share"].max()]
    numbers = zip(most["foreign cost"], most["low"], most["high"], strict=True)
    cost = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in numbers]
    columns = [
        "model",
        "seeds",
        "rival",
        "share",
        "mixed",
        "alone",
        "foreign cost",
        "own cost",
        "intruders",
        "pool share",
    ]
    lines = [
        scope_by_row(most["seeds"], "topics"),
        "",
        *_markdown(most.assign(**{"foreign cost": cost})[columns]),
        "",
    ]
    lines += [
        (
            f"Whose passages the intruders are, plain vectors, at share {most['share'].iloc[0]:g}:"
            " part of the first ten."
        ),
        "",
    ]
    lines += _markdown(mixed_pools.intruder_table(pools))
    if (folder / "verdicts.csv").exists():
        lines += [
            "",
            (
                "What a reader found in foreign passages (`examples.csv`, `verdicts.csv`; *names*:"
                " without an answer):"
            ),
            "",
        ]
        lines += _markdown(mixed_pools.verdict_table(folder))
    return "\n".join(lines)


def designs_block(folder: Path) -> str:
    """Return the page's part on several profiles, which lie beside `folder`.

    It has `06_effects.csv` of `designs.effects`, `06_alpha.csv` of `factors.alphas` and
    `06_factors.csv` of `factors.factors`.
    """
    chosen = designs.read_designs(folder.parent)
    lines = [
        f"- {sentence}"
        for sentence in designs.answers(chosen, pd.read_csv(folder / "06_effects.csv"))
    ]
    lines += [
        "",
        "![The hybrid minus the pure strategies](06_effects.png)",
        "",
        *_markdown(designs.design_table(chosen)),
    ]
    for known, title in (
        (False, "language of a text is not known"),
        (True, "language of every text is known"),
    ):
        short = designs.shortfall(chosen, language_known=known)
        lines += [
            "",
            f"mAP below the best repair of each task, if the {title}:",
            "",
            *_markdown(short),
        ]
    lines += ["", "## How much of it monolingual", "", "![mAP over alpha](06_alpha.png)", ""]
    lines += [
        f"- {sentence}" for sentence in factors.alpha_answers(pd.read_csv(folder / "06_alpha.csv"))
    ]
    ladder = load_results(folder.parent / factors.LADDER / "results")
    lines += ["", provenance(ladder), "", "## What the gain comes from", ""]
    variants = load_results(folder.parent / factors.CONTROLS / "results")
    lines += [f"- {sentence}" for sentence in factors.control_answers(variants)]
    lines += ["", VARIANTS, "", *_markdown(factors.controls(variants)), "", provenance(variants)]
    chosen_cells = load_results(folder.parent / factors.CELLS / "results")
    lines += [
        "",
        "## Pairs or batches",
        "",
        *(f"- {sentence}" for sentence in factors.cell_answers(chosen_cells)),
        "",
    ]
    lines += [*_markdown(factors.cells(chosen_cells)), "", provenance(chosen_cells), ""]
    changed = factors.read_factors(folder.parent)
    lines += [
        "## One thing at a time",
        "",
        "![The hybrid minus the pure strategies, one thing changed](06_factors.png)",
        "",
    ]
    lines += ["Multilingual mAP behind it:", "", *_markdown(factors.factor_levels(changed)), ""]
    for results in {results.study.profile: results for results, _ in changed.values()}.values():
        if any("ids" in changes for changes in results.study.variants.values()):
            lines += [
                "Fewer ids minus the encoder as it is, and minus as many steps on all ids:",
                "",
            ]
            lines += [*_markdown(factors.fewer_ids(results)), ""]
        if results.study.profile == factors.FEW:
            lines += [
                PARALLEL,
                "",
                *_markdown(factors.being_parallel(results, variants)[[*FAMILY[:1], *FAMILY[3:8]]]),
                "",
            ]
        lines += [provenance(results), ""]
    lines += ["## Made-up text beside real text", "", ADDED, ""]
    more, without = (load_results(folder.parent / name / "results") for name in factors.ADDED)
    lines += [*_markdown(factors.against(more, without)), "", provenance(more), ""]
    without, near = (load_results(folder.parent / name / "results") for name in factors.NEAR)
    lines += [
        "## Without what is near to the tests",
        "",
        NEAR,
        "",
        *_markdown(factors.against(without, near)),
        "",
    ]
    lines += [*_markdown(factors.moved(without, near).rename(columns={"strategy": "lead"})), ""]
    lines += [*_markdown(factors.near_questions([near, without])), "", provenance(without), ""]
    settings = load_results(folder.parent / factors.GRID / "results")
    lines += [
        "## Learning rate and temperature",
        "",
        "![The hybrid minus the pure strategies, by cell](06_grid.png)",
        "",
    ]
    lines += [*_chosen(settings, pd.read_csv(folder / "06_grid.csv")), "", "## Number of steps", ""]
    settings = load_results(folder.parent / factors.STEPS / "results")
    lines += [*_chosen(settings, factors.grid_effects(settings)), ""]
    both = factors.across(ladder, chosen_cells)
    far = both["difference"].abs().max()
    lines += [
        "## The same runs on two machines",
        "",
        f"{MACHINES} Over {len(both)} means they differ by {far:.4f} at most.",
        "",
    ]
    first, again = (load_results(folder.parent / name / "results") for name in factors.AGAIN)
    both = factors.across(first, again)
    far = both["difference"].abs().max()
    lines += [
        f"{REPLICA} Over {len(both)} means they differ by {far:.4f} at most."
        f" {factors.turned(first, again)}"
    ]
    return "\n".join(lines)


def _chosen(settings: Results, effects: pd.DataFrame) -> list[str]:
    """Return what a grid of settings gives, `factors.grid_effects` among it."""
    found = factors.grid(settings)
    lines = [f"- {told}" for told in factors.grid_answers(settings, found, effects)]
    lines += [
        "",
        TUNED,
        "",
        *_markdown(factors.tuned(settings)),
        "",
        "mAP on the held-out pairs:",
        "",
    ]
    shown = found.drop(columns=["run", "chosen"]).assign(
        chosen=found["chosen"].map({True: "yes", False: ""})
    )
    if "learning rate" in shown:
        shown["learning rate"] = shown["learning rate"].map("{:g}".format)
    return [*lines, *_markdown(shown), "", provenance(settings)]


def averages_block(folder: Path) -> str:
    """Return the page's part on averaged weights; the hybrid's results lie beside `folder`, in
    `parallel`.
    """
    return _beside(folder, "parallel", (designs.HYBRID, "none"))


def stock_block(folder: Path) -> str:
    """Return the page's part on the stock trainer's batches; those it is compared with lie beside
    `folder`, in `two_by_two`.
    """
    trained = json.loads((folder / "trained.json").read_text(encoding="utf-8"))
    drawn = (
        f"Of {trained['steps']} batches of {trained['batch_size']} rows "
        f"{trained['batches_with_an_id_twice']} hold an id twice."
    )
    return f"{drawn}\n\n{_beside(folder, factors.CELLS, ('x-x', 'x-x-mono', 'none'))}"


def _beside(folder: Path, profile: str, minus: Sequence[str]) -> str:
    table = designs.beside(folder, load_results(folder.parent / profile / "results"), minus)
    columns = [
        "model",
        "seeds",
        "task",
        "minus",
        "free fix",
        "setting",
        "mAP",
        "difference",
        "low",
        "high",
        "verdict",
    ]
    return "\n".join(_markdown(table[columns]))


def claims_block(folder: Path) -> str:
    """Return the page's ledger over the profiles `claims.LEDGERS`, which lie beside `folder`, as do
    MIRACL's corpora.
    """
    ledgers = claims.read_ledgers(folder.parent)
    table = claims.verdicts(ledgers)
    wide = (
        table.set_index("claim")
        .drop(columns="text")
        .T.rename_axis("trained: judged on")
        .reset_index()
    )
    lines = [*_markdown(wide), "", "## What stands behind each verdict", "", LEDGER, ""]
    shown = ledgers[ledgers["claim"].isin(claims.DIRECTED) & ledgers["measured"].notna()].copy()
    shown["finding"] = shown["finding"].str.replace(
        r" \(minimum.*", "", regex=True
    )  # it has a column
    below = shown["high"].lt(0) & shown["claim"].eq("11")
    said = {
        claims.NON_INFERIOR: "non-inferior, and below",
        claims.NOT_DECIDABLE: "below, perhaps by more than the margin",
    }
    shown["finding"] = shown["finding"].mask(below, shown["finding"].replace(said))
    places = [0 if RANK_DISTANCE in tested else 3 for tested in shown["tested"]]
    for column in ("measured", "low", "high"):
        shown[column] = [f"{value:+.{n}f}" for value, n in zip(shown[column], places, strict=True)]
    shown["difference"] = shown["measured"] + " [" + shown["low"] + ", " + shown["high"] + "]"
    shown["p, Holm"] = [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in shown["p_holm"]]
    names = {"profile": "trained", "task": "judged on", "mde": "smallest to be found"}
    shown = shown.rename(columns=names).fillna({"paper": ""})
    columns = [
        "trained",
        "judged on",
        "tested",
        "difference",
        "paper",
        "p, Holm",
        "smallest to be found",
        "finding",
    ]
    for claim, text in zip(table["claim"], table["text"], strict=True):
        lines += [
            f"### {claim}: {text}",
            "",
            *_markdown(shown.loc[shown["claim"] == claim, columns]),
            "",
        ]
    miracl = [
        path.parent.parent.name.removeprefix("miracl-")
        for path in folder.parent.glob("miracl-*/none/metrics.json")
    ]
    languages = sorted(lang for lang in miracl if "-" not in lang)
    return "\n".join([*lines, "## The set-up", "", *_markdown(claims.set_up(ledgers, languages))])


def context_block(folder: Path) -> str:
    """Return the page's table: what a paragraph behind every sentence changes; `folder` has a
    folder per task and fix.
    """
    rows = []
    for path in sorted(Path(folder).rglob("metrics.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        rows.append(
            {
                "passages": (
                    "with their paragraph"
                    if told["config"]["context"] == "paragraph"
                    else "sentences alone"
                ),
                "free fix": kind_of(told["config"]).name,
                **{f"{setting} mAP": means["mAP"] for setting, means in told["settings"].items()},
                "rank distance": told["bias"]["rank_distance"]["mean"],
                "own language in the top 10": told["bias"]["language_share"]["own"]["mean"],
            }
        )
    table = pd.DataFrame(rows).sort_values(
        ["passages", "free fix"], key=lambda values: values.where(values != "none", "")
    )
    return "\n".join(_markdown(table))


def curve_block(folder: Path) -> str:
    """Return the README's part on how many texts centring needs, as Markdown; `folder` has a
    `fit_curve.csv` per task.
    """
    tables = []
    for path in sorted(Path(folder).glob("*/fit_curve.csv")):
        table = (
            pd.read_csv(path)
            .query("measure == 'mAP'")
            .pivot(index=["texts", "fewest"], columns="setting", values="mean")
        )
        tables.append(table[list(SETTINGS)].reset_index().assign(task=path.parent.name))
    together = pd.concat(tables, ignore_index=True).rename(
        columns={"texts": "texts per language", "fewest": "fewest given"}
    )
    return "\n".join(_markdown(together[["task", *together.columns.drop("task")]]))


def fill_readme(text: str, profile: str, blocks: dict[str, str]) -> str:
    """Put the blocks between `<!-- PROFILE NAME -->` and `<!-- end -->`; a README without such
    marks stays as it is.
    """
    for name, block in blocks.items():
        marks = re.compile(
            rf"(<!-- {re.escape(profile)} {name} -->\n).*?(<!-- end -->)", flags=re.S
        )
        before, *rest = marks.split(text, maxsplit=1)
        text = before + (f"{rest[0]}{block}\n{rest[1]}{rest[2]}" if rest else "")
    return text


def _markdown(table: pd.DataFrame) -> list[str]:
    def cell(value: Any) -> str:
        return rounded(value) if isinstance(value, float) else str(value)

    rules = [":--" if table[column].dtype.kind not in "fi" else "--:" for column in table]
    rows = [[cell(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return ["| " + " | ".join(row) + " |" for row in [list(map(str, table.columns)), rules, *rows]]


def _html_summary(results: Results) -> str:
    page = _html(
        primary_family(results)[FAMILY],
        f"The hybrid against the pure strategies: Holm-adjusted p, margin {MARGIN} mAP",
        classes="family",
    )
    beside = overview(results)
    if beside.empty:
        return page
    return page + _html(
        two_rows(beside), f"Means over languages beside the paper's: it has {CAVEAT}"
    )


def _html_task(results: Results, task: str) -> str:
    counts = next(e for e in results.evaluations if e["task"] == task)["counts"]
    caption = (
        f"{task}: {counts['queries']:,} queries, {counts['passages']:,} passages in"
        f" {len(counts['languages'])} languages; mAP and R@10 higher is better, rank distance lower"
    )
    return _html(main_table(results, task), caption)


def _html(table: pd.DataFrame, caption: str, classes: str | None = None) -> str:
    page = table.to_html(index=False, float_format=rounded, na_rep="", border=0, classes=classes)
    return page.replace("<thead>", f"<caption>{html.escape(caption)}</caption><thead>", 1)
