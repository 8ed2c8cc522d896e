"""No network unless asked: folders never ask, and XIR_OFFLINE forbids it to hub ids."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import build_tiny
from toy import toy_pairs, toy_task

from xir_lib.paths import REPO

# Runs commands of `xir` one after the other and prints their exit codes. The first try of a
# connection or of a look-up is told and ends the process: no `except` can hide it, and no client
# waits and tries again.
GUARDED = """
import json, os, sys

def watch(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}:
        sys.stderr.write(f"{event} {arguments[-5:]}\\n")
        sys.stderr.flush()
        os._exit(97)

sys.addaudithook(watch)
PRELUDE
from xir_lib.cli import main

codes = []
for command in json.loads(sys.argv.pop()):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as stop:
        codes.append(stop.code or 0)
print(json.dumps(codes))
"""


class Told(NamedTuple):
    code: int  # of the process
    codes: list[int]  # of the commands
    stderr: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an encoder, saved and as the Hub caches it, its bare transformer, a task, and pairs."""
    folder = tmp_path_factory.mktemp("offline")
    tiny = build_tiny(folder)
    cached = folder / "hub" / "models--toy--tiny"
    revision = "0" * 40
    shutil.copytree(tiny, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    toy_task().save(folder / "task")
    rows = toy_pairs().table.select(["pair_id", "lang", "query", "passage"]).to_pylist()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def xir(place: Path, commands: list[list[str]], offline: bool, prelude: str = "") -> Told:
    """Run commands in one guarded process, which exits with 97 if a connection was tried."""
    outer = os.environ.items()
    kept = {name: value for name, value in outer if not name.startswith(("HF_", "XIR_"))}
    folders = {"HF_HUB_CACHE": "hub", "XIR_DATA": "data", "XDG_CACHE_HOME": "cache"}
    told = {name: str(place / folder) for name, folder in folders.items()}
    told |= {"PYTHONPATH": str(REPO)} | ({"XIR_OFFLINE": "1"} if offline else {})
    done = subprocess.run(
        [sys.executable, "-c", GUARDED.replace("PRELUDE", prelude), json.dumps(commands)],
        env=kept | told,
        cwd=place,
        capture_output=True,
        text=True,
    )
    codes = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else []
    return Told(done.returncode, codes, done.stderr)


def commands(model: str, out: str) -> list[list[str]]:
    """Return every command that opens an encoder, small."""
    training = ["train", "--encoder", model, "--pairs", "pairs.jsonl", "--steps", "2"]
    training += ["--max-seq-length", "32"]
    return [
        ["evaluate", "--model", model, "--task", "task", "--out", f"{out}/evaluated"],
        ["bias", "--model", model, "--task", "task", "--out", f"{out}/biased"],
        [*training, "--dry-run"],
        [*training, "--out", f"{out}/trained"],
    ]


@pytest.mark.slow
def test_local_folders_and_data_ask_nobody(place: Path) -> None:
    build = ["data", "build", "--out", "atlas", "--language", "sw"]
    data = [["data", "list"], ["data", "verify", "xquad-r"], build]
    plain = commands("plain", "p")[:1]  # a relative name, which would be a hub id too
    done = xir(place, [*commands("tiny", "t"), *plain, *data], offline=False)
    assert (done.code, done.codes) == (0, [0] * 5 + [0, 2, 0]), done.stderr


@pytest.mark.slow
def test_offline_a_cached_hub_id_works_and_others_get_their_line_at_once(place: Path) -> None:
    unknown = [*commands("nobody/nothing", "n"), ["data", "get", "xquad-r"]]
    done = xir(place, [*commands("toy/tiny", "c"), *unknown], offline=True)
    assert (done.code, done.codes) == (0, [0] * 4 + [2] * 5), done.stderr
    assert "Retry" not in done.stderr  # the Hub's client would wait 23 seconds for each file
    lines = [line for line in done.stderr.splitlines() if line.startswith("xir: ")]
    assert len(lines) == 5 and all("XIR_OFFLINE is set" in line for line in lines)


@pytest.mark.parametrize(
    "prelude",
    [
        "import datasets, huggingface_hub",
        "import os, huggingface_hub, xir_lib; os.environ['XIR_OFFLINE'] = '1'",
    ],
    ids=["the client was there first", "set after the import"],
)
def test_offline_holds_whenever_the_client_was_imported(place: Path, prelude: str) -> None:
    dry_run = commands("nobody/nothing", "n")[2]
    done = xir(place, [dry_run], "XIR_OFFLINE" not in prelude, prelude)
    assert (done.code, done.codes) == (0, [2]), done.stderr


def test_the_guard_sees_a_hub_id_ask(place: Path) -> None:
    done = xir(place, commands("nobody/nothing", "n")[2:3], offline=False)
    assert done.code == 97 and "socket.getaddrinfo ('huggingface.co'" in done.stderr
