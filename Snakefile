# The study as a graph: data -> train (strategy, seed) -> evaluate (model, task) -> notebooks -> report.
# `xir study` starts it with the profile, the build folder and the repository; see xir_lib/study/graph.py.
import base64
import json
import shlex
import sys
from pathlib import Path

import yaml

from xir_lib.study.graph import code_digest
from xir_lib.study.report import READERS
from xir_lib.study.profile import load_study

PARAMS = config["params"]
BUILD = Path(config["build"])
REPO = Path(workflow.basedir)
PYTHON = str(Path(sys.prefix) / "bin" / "python")  # one spelling, since commands are compared
STUDY = load_study(PARAMS)
TRAINED = [run for run in STUDY.runs if run not in ("none", "untrained")]
TASKS = {evaluation.task: evaluation for evaluation in STUDY.evaluations}
BEFORE = dict(zip([*TASKS][1:], TASKS))
RIVALS = [rival for rival in STUDY.rivals if rival != "none"]
PRECISION = ["--precision", STUDY.precision] if STUDY.precision != "auto" else []
JUDGED = [run for run in STUDY.runs if run != "untrained"]  # on the corpora
FIRST = [run for run in JUDGED if run == "none" or run.endswith(f"-s{STUDY.seeds[0]}")]  # among foreign passages


READ_BY = ["metrics", "study"]
JUDGED_BY = ["metrics", "data", "encoders", "repair", "evaluation"]


# Rules that run a notebook are tried twice: a Jupyter kernel picks free ports before it binds them, and another one that starts at
# the same moment may have taken them ("Address already in use").
def notebook(name, parameters):
    """Run one notebook with papermill; parameters travel as base64 YAML, which keeps their types."""
    values = base64.b64encode(yaml.safe_dump(parameters, sort_keys=True).encode()).decode()
    return shlex.join(
        [PYTHON, "-m", "papermill", "--log-level", "WARNING", "--cwd", str(REPO / "notebooks"), "-b", values]
        + [str(REPO / "notebooks" / f"{name}.ipynb")]
    )


def model(run):
    """What `xir evaluate --model` gets."""
    special = {"none": STUDY.encoder, "untrained": f"untrained:{STUDY.encoder}"}
    return special.get(run, str(BUILD / "models" / run))


def evaluate_command(run, task):
    """The command line of one evaluation, rivals included."""
    evaluation = TASKS[task]
    options = ["--model", model(run), "--task", BUILD / "data" / "tasks" / task, "--cache", BUILD / "embeddings"]
    options += ["--out", BUILD / "evaluations" / run / task]
    for rival in RIVALS:
        options += ["--rival", rival]
    for name in evaluation.fit_on:
        options += ["--fit-on", BUILD / "data" / "tasks" / name]
    options += ["--fit", evaluation.fit] if evaluation.fit != "foreign" else []
    options += ["--fit-texts", evaluation.fit_texts] if evaluation.fit_texts else []
    options += PRECISION
    return shlex.join([PYTHON, "-m", "xir_lib", "evaluate", *map(str, options)])


def corpus_command(command, run, corpus, out, *rivals):
    """The command line of `evaluate` or `mix` on a corpus of one language."""
    options = ["--model", model(run), "--task", corpus, "--cache", BUILD / "embeddings", "--fit-on", "atlas-qa-train"]
    options += ["--out", out / run / corpus]
    for rival in rivals:
        options += ["--rival", rival]
    options += PRECISION
    return shlex.join([PYTHON, "-m", "xir_lib", command, *map(str, options)])


wildcard_constraints:
    run="|".join(STUDY.runs),
    corpus="|".join(STUDY.corpora),
    task="|".join(TASKS),
    reader="|".join(READERS),


rule all:
    input:
        BUILD / "report" / "index.html",
        expand(BUILD / "corpora" / "{run}" / "{corpus}" / "metrics.json", run=JUDGED, corpus=STUDY.corpora),
        expand(BUILD / "mixed" / "{run}" / "{corpus}" / "mixed.json", run=FIRST, corpus=STUDY.corpora if STUDY.mixed else []),


rule prepare:
    input:
        REPO / "notebooks" / "01_data_preparation.ipynb",
    output:
        BUILD / "notebooks" / "01_data_preparation.ipynb",
        BUILD / "data" / "train.arrow",
        BUILD / "data" / "held_out.arrow",
        BUILD / "data" / "summary.json",
        directory(expand(BUILD / "data" / "tasks" / "{task}", task=sorted({*TASKS, *(n for e in TASKS.values() for n in e.fit_on)}))),
    retries: 1
    params:
        parameters=json.dumps([STUDY.data.model_dump(), [[e.task, e.languages, e.fit_on] for e in STUDY.evaluations]], sort_keys=True),
        code=code_digest("data", "study/sources.py"),
    shell:
        notebook("01_data_preparation", {"params_file": str(Path(PARAMS).resolve()), "out": str(BUILD / "data")}) + " {output[0]:q}"


# The model's folder is no declared output: Snakemake deletes outputs before a job, and a finished model of the same
# encoder, pairs and settings is kept by `training.train` itself. After a change to the training code, remove the folder.
rule train:
    input:
        REPO / "notebooks" / "02_train_strategy.ipynb",
        BUILD / "data" / "train.arrow",
        BUILD / "data" / "held_out.arrow",
    output:
        BUILD / "notebooks" / "02_train_strategy-{run}.ipynb",
    priority: 1  # trainings follow one another, so they are the longest way through the graph
    resources:
        training=1,
    retries: 1
    params:
        settings=lambda w: json.dumps([STUDY.encoder, settings_of(w.run)], sort_keys=True),
        command=lambda w: notebook(
            "02_train_strategy",
            {
                **settings_of(w.run),
                "encoder": STUDY.encoder,
                "data_name": STUDY.data.source,
                "pairs_file": str(BUILD / "data" / "train.arrow"),
                "held_out_file": str(BUILD / "data" / "held_out.arrow"),
                "out": str(BUILD / "models" / w.run),
            },
        ),
    shell:
        "{params.command} {output:q}"


def settings_of(run):
    strategy, seed = run.rsplit("-s", 1)
    return STUDY.settings(strategy, int(seed)).model_dump()


# A model's tasks follow one another: the next one finds in the cache what the tasks share, instead of encoding it at the
# same time.
rule evaluate:
    input:
        lambda w: [ancient(BUILD / "evaluations" / w.run / BEFORE[w.task] / "metrics.json")] if w.task in BEFORE else [],
        lambda w: [BUILD / "notebooks" / f"02_train_strategy-{w.run}.ipynb"] if w.run in TRAINED else [],
        lambda w: [BUILD / "data" / "tasks" / name for name in [w.task, *TASKS[w.task].fit_on]],
    output:
        BUILD / "evaluations" / "{run}" / "{task}" / "metrics.json",
    params:
        command=lambda w: evaluate_command(w.run, w.task),
        code=code_digest(*JUDGED_BY),
    shell:
        "{params.command}"


# Corpora of one language: large, so that they come after everything that the report needs. They use nothing that `prepare`
# makes; without it they would start beside it and take a core from the tasks for half an hour.
rule corpus:
    input:
        ancient(rules.prepare.output[0]),
        lambda w: [BUILD / "notebooks" / f"02_train_strategy-{w.run}.ipynb"] if w.run in TRAINED else [],
    output:
        BUILD / "corpora" / "{run}" / "{corpus}" / "metrics.json",
    priority: -1
    params:
        command=lambda w: corpus_command("evaluate", w.run, w.corpus, BUILD / "corpora", "centring"),
        code=code_digest(*JUDGED_BY),
    shell:
        "{params.command}"


rule mix:
    input:
        BUILD / "corpora" / "{run}" / "{corpus}" / "metrics.json",
    output:
        BUILD / "mixed" / "{run}" / "{corpus}" / "mixed.json",
    priority: -1
    params:
        command=lambda w: corpus_command("mix", w.run, w.corpus, BUILD / "mixed", "centring", "round-robin"),
        code=code_digest("study/mixed_pools.py", *JUDGED_BY),
    shell:
        "{params.command}"


rule overlap:
    input:
        BUILD / "data" / "train.arrow",
        expand(BUILD / "data" / "tasks" / "{task}", task=list(TASKS)),
    output:
        BUILD / "data" / "overlap.json",
    params:
        code=code_digest("data"),
    shell:
        "{PYTHON:q} -m xir_lib step overlap --params {PARAMS:q} --build {BUILD:q}"


rule collect:
    input:
        expand(BUILD / "evaluations" / "{run}" / "{task}" / "metrics.json", run=STUDY.runs, task=list(TASKS)),
        BUILD / "data" / "overlap.json",
    output:
        expand(BUILD / "results" / "{name}", name=["study.json", "runs.json", "evaluations.json", "overlap.json", "group_sums.parquet"]),
    params:
        study=json.dumps(STUDY.model_dump(), sort_keys=True),
        code=code_digest("study/steps.py"),
    shell:
        "{PYTHON:q} -m xir_lib step collect --params {PARAMS:q} --build {BUILD:q}"


rule read:
    input:
        REPO / "notebooks" / "{reader}.ipynb",
        rules.collect.output,
    output:
        BUILD / "notebooks" / "{reader}.ipynb",
    retries: 1
    params:
        command=lambda w: notebook(w.reader, {"results": str(BUILD / "results"), "figures": str(BUILD / "figures")}),
        code=code_digest(*READ_BY),
    shell:
        "{params.command} {output:q}"


rule report:
    input:
        rules.prepare.output[0],
        expand(BUILD / "notebooks" / "02_train_strategy-{run}.ipynb", run=TRAINED),
        expand(BUILD / "notebooks" / "{reader}.ipynb", reader=READERS),
        rules.collect.output,
    output:
        BUILD / "report" / "index.html",
    params:
        code=code_digest(*READ_BY),
    shell:
        "{PYTHON:q} -m xir_lib step report --params {PARAMS:q} --build {BUILD:q}"
