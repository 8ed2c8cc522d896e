"""Downloads from a local server with upstream's paths, which also breaks and gates."""

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from xir_lib.data import catalogue, download, miracl
from xir_lib.data.catalogue import DataSet, File, Source
from xir_lib.errors import InputError

ONE, TWO = b"first file\n", "zweite Datei: Größe\n".encode() * 100
HTML = b"<html>log in to the hotel network</html>"
DOCS, TOPICS = b"the corpus" * 1000, b"1\tNani?\n"
TOPICS_BLOB = "a94278247d59b6ba941b5970f44eedede970364e"  # by `git hash-object`


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def squad_bytes(questions: int) -> bytes:
    qas = [{"id": f"q{n}", "question": f"what {n}?", "answers": []} for n in range(questions)]
    return json.dumps({"data": [{"paragraphs": [{"context": "text", "qas": qas}]}]}).encode()


def archive_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("TOY/test/a.json", squad_bytes(3))
        bundle.writestr("TOY/LICENSE", b"free")
    return buffer.getvalue()


ZIP = archive_bytes()
FILES = {"one.txt": (len(ONE), sha256(ONE)), "sub/two.txt": (len(TWO), sha256(TWO))}
UPSTREAM = "https://upstream.invalid/org/rev/"
ZIPPED = File("toy.zip", UPSTREAM + "toy.zip", len(ZIP), sha256(ZIP))
HUB_PATH = "/datasets/toy/gated/resolve/rev/"
CONTENT = {
    "/org/rev/one.txt": ONE,
    "/org/rev/sub/two.txt": TWO,
    "/org/rev/toy.zip": ZIP,
    HUB_PATH + "docs.gz": DOCS,
    HUB_PATH + "topics.tsv": TOPICS,
}


class Server(http.server.ThreadingHTTPServer):
    """Serves `CONTENT`; `broken` maps a path to the ways its next answers fail, in order.

    Below HUB_PATH it is the Hub: small files under their blob's sum, large ones redirected to a
    store on another host, all of them only for who has the token `gate`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.broken: dict[str, list[str]] = {}
        self.hits: Counter[str] = Counter()
        self.told = {"docs.gz": sha256(DOCS), "topics.tsv": TOPICS_BLOB}
        self.gate, self.refusal = "", 401
        self.tokens: set[tuple[str, str | None]] = set()  # host and token
        self.finished = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(b"", "well")

    def do_GET(self) -> None:
        self.server.hits[self.path] += 1
        ways = self.server.broken.get(self.path, [])
        way = ways.pop(0) if ways else "well"
        body = CONTENT[self.path.removeprefix("/store")]
        self.answer(HTML if way == "wrong" else body, way)

    def answer(self, body: bytes, way: str) -> None:
        host, token = str(self.headers["Host"]).split(":")[0], self.headers.get("Authorization")
        on_hub, name = self.path.startswith(HUB_PATH), Path(self.path).name
        self.server.tokens.add((host, token))
        if way.isdigit():
            return self.send_error(int(way))
        if on_hub and self.server.gate and token != f"Bearer {self.server.gate}":
            return self.send_error(self.server.refusal)
        large = on_hub and name == "docs.gz"
        self.send_response(302 if large else 200)
        if large:
            store = f"http://localhost:{self.server.server_address[1]}/store"
            self.send_header("Location", store + self.path)
        if on_hub:
            told = f'"{self.server.told[name]}"'
            self.send_header("X-Linked-Etag" if large else "ETag", told if large else f"W/{told}")
        self.send_header("Content-Length", "0" if large else str(len(body)))
        self.end_headers()
        if not large:
            half = way in ("truncated", "stalled")
            self.wfile.write(body[: len(body) // 2] if half else body)
        if way == "stalled":
            self.server.finished.wait(20)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: os.environ["HF_TOKEN"] or None)
    monkeypatch.delenv("XIR_OFFLINE", raising=False)
    with Server() as local:
        serve = {"poll_interval": 0.02}
        threading.Thread(target=local.serve_forever, kwargs=serve, daemon=True).start()
        hub = Source(local.url + HUB_PATH, ["docs.gz", "topics.tsv"], into="sub/")
        toys = {
            "toy": DataSet("two files", "CC0", sources=(Source(UPSTREAM, FILES),)),
            "zipped": DataSet("", "", archive=ZIPPED, root="TOY", questions={"test/a.json": 3}),
            "hub": DataSet("", "", folder="hub-1", sources=(hub,)),
        }
        monkeypatch.setattr(catalogue, "DATASETS", toys)
        monkeypatch.setattr(download, "HUB", local.url)
        yield local
        local.finished.set()
        local.shutdown()


def fetch(server: Server, name: str = "toy", timeout: float = 30.0) -> Path:
    base_url = None if name == "hub" else server.url
    return download.get(name, base_url=base_url, progress=False, timeout=timeout)


def refusal(server: Server, name: str = "toy", timeout: float = 30.0) -> str:
    with pytest.raises(InputError) as caught:
        fetch(server, name, timeout)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files_in(tmp_path: Path) -> list[str]:
    """Every file under the data folder but the locks, half-made ones included."""
    root = tmp_path / "data"
    found = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(root)) for path in found)


WHOLE = ["toy/one.txt", "toy/sub/two.txt"]


def test_what_is_right_is_not_fetched_again_and_what_is_wrong_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(server) == tmp_path / "data" / "toy" and files_in(tmp_path) == WHOLE
    assert (tmp_path / "data/toy/sub/two.txt").read_bytes() == TWO
    (tmp_path / "data/toy/one.txt").write_bytes(ONE.upper())  # the length stays, the sum does not
    fetch(server)
    monkeypatch.setenv("XIR_OFFLINE", "1")  # a complete data set needs no network
    fetch(server)
    assert server.hits == {"/org/rev/one.txt": 2, "/org/rev/sub/two.txt": 1}
    assert catalogue.verify("toy") == []


def test_progress_names_the_file_on_stderr(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    download.get("toy", base_url=server.url + "/", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "one.txt" in err and "100%" in err


@pytest.mark.parametrize("way", ["truncated", "stalled", "503", "wrong"])
def test_passing_failures_are_tried_again(server: Server, tmp_path: Path, way: str) -> None:
    server.broken["/org/rev/one.txt"] = [way, way]
    fetch(server, timeout=0.3)
    assert server.hits["/org/rev/one.txt"] == 3 and files_in(tmp_path) == WHOLE


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("404", "the server answered 404 Not Found; try again later, or put it at"),
        # TWO has 22 bytes (20 letters, two of them of two bytes) x 100 = 2,200; half of it is sent
        ("truncated", "1100 bytes read, 1100 more expected"),
        ("stalled", "Read timed out"),
        ("wrong", f"40 bytes and sha256 {sha256(HTML)}, expected the sum {sha256(TWO)}"),
    ],
)
def test_lasting_failures_are_one_line_and_leave_nothing(
    server: Server, tmp_path: Path, way: str, says: str
) -> None:
    server.broken["/org/rev/sub/two.txt"] = [way] * 9
    message = refusal(server, timeout=0.3)
    assert f"{server.url}/org/rev/sub/two.txt: " in message and says in message
    assert files_in(tmp_path) == ["toy/one.txt"]  # what was whole is kept
    (tmp_path / "data/toy/sub").mkdir(exist_ok=True)
    (tmp_path / "data/toy/sub/two.txt").write_text("mine")  # and so is what was there
    refusal(server, timeout=0.3)
    assert (tmp_path / "data/toy/sub/two.txt").read_text() == "mine"


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://upstream.invalid", "no-address"])
def test_no_connection_is_one_line(server: Server, tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=rf"^{address}/org/rev/one\.txt: [^\n]+ or put it at \S+$"):
        download.get("toy", base_url=address, progress=False, timeout=5)
    assert files_in(tmp_path) == []


def test_refusals_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "timeout must be above 0 seconds, got 0" in refusal(server, timeout=0)
    assert refusal(server, "squad") == "unknown data set 'squad'; known: toy, zipped, hub"
    monkeypatch.setenv("XIR_OFFLINE", "1")
    message = refusal(server)
    assert message.startswith("XIR_OFFLINE is set; unset it")
    assert str(tmp_path / "data/toy/one.txt") in message
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "file" / "data"))
    message = refusal(server)
    assert message.startswith(f"cannot write into {tmp_path}/file/data/toy (")
    assert "XIR_DATA" in message and not server.hits


def test_a_killed_download_starts_again_cleanly(server: Server, tmp_path: Path) -> None:
    server.broken["/org/rev/sub/two.txt"] = ["stalled"]
    code = (
        "from xir_lib.data.catalogue import *; from xir_lib.data import download;"
        f"DATASETS['toy'] = {catalogue.DATASETS['toy']!r};"
        f"download.get('toy', base_url={server.url!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    partial = tmp_path / "data/toy/.partial/sub"
    while not any(partial.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert any(partial.glob("*"))  # killed in the middle
    fetch(server)
    assert files_in(tmp_path) == WHOLE and server.hits["/org/rev/one.txt"] == 1


def test_two_at_once_fetch_each_file_once(server: Server) -> None:
    threads = [threading.Thread(target=fetch, args=(server,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert server.hits == {"/org/rev/one.txt": 1, "/org/rev/sub/two.txt": 1}


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_archive_is_unpacked_and_deleted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    if by_hand:  # then there is nothing to fetch
        monkeypatch.setenv("XIR_OFFLINE", "1")
        (tmp_path / "data/zipped").mkdir(parents=True)
        (tmp_path / "data/zipped/toy.zip").write_bytes(ZIP)
    fetch(server, "zipped")
    fetch(server, "zipped")
    assert files_in(tmp_path) == ["zipped/test/a.json"]  # without its other members
    assert server.hits["/org/rev/toy.zip"] == (0 if by_hand else 1)


@pytest.mark.parametrize(
    ("questions", "says"),
    [
        ({"test/a.json": 4}, "3 questions, expected 4"),
        ({"test/c.json": 1}, "has no TOY/test/c.json"),
    ],
)
def test_an_archive_with_other_content_is_refused(
    server: Server, tmp_path: Path, questions: dict[str, int], says: str
) -> None:
    toy = DataSet("", "", archive=ZIPPED, root="TOY", questions=questions)
    catalogue.DATASETS["zipped"] = toy
    assert says in refusal(server, "zipped")
    assert not list((tmp_path / "data").rglob("*.json"))


def test_list_tells_present_missing_and_wrong(server: Server, tmp_path: Path) -> None:
    assert {row["status"] for row in catalogue.list_datasets()} == {"missing"}
    for name in ("toy", "zipped", "hub"):
        fetch(server, name)
    rows = catalogue.list_datasets()
    assert [row["status"] for row in rows] == ["present"] * 3
    assert rows[0] == {
        "name": "toy",
        "description": "two files",
        "licence": "CC0",
        "download_size": 11 + 2200,
        "folder": f"{tmp_path}/data/toy",
        "status": "present",
        "problems": [],
    }
    (tmp_path / "data/toy/one.txt").write_bytes(ONE[:-1])
    (tmp_path / "data/toy/sub/two.txt").unlink()
    (tmp_path / "data/zipped/test/a.json").write_bytes(squad_bytes(2))
    (tmp_path / "data/hub-1/sub/topics.tsv").write_bytes(b"2\tNani?\n")
    toy, zipped, hub = (row["problems"] for row in catalogue.list_datasets())
    assert {row["status"] for row in catalogue.list_datasets()} == {"wrong"}
    assert toy == [
        f"{tmp_path}/data/toy/one.txt has 10 bytes, expected 11",
        f"{tmp_path}/data/toy/sub/two.txt is missing",
    ]
    assert zipped == [f"{tmp_path}/data/zipped/test/a.json has 2 questions, expected 3"]
    assert "topics.tsv has sha256" in hub[0]


def test_files_of_the_hub_are_checked_by_the_sums_that_it_tells(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data/hub-1"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/topics.tsv").write_bytes(TOPICS)  # by hand: checked and not fetched
    assert "no sum on record" in catalogue.verify("hub")[1]
    assert fetch(server, "hub") == folder and (folder / "sub/docs.gz").read_bytes() == DOCS
    assert not server.hits[HUB_PATH + "topics.tsv"]
    check = ["sha256sum", "--check", "--quiet", "checksums.sha256"]
    assert subprocess.run(check, cwd=folder).returncode == 0
    record = folder / "checksums.sha256"
    record.write_bytes(b"\n\xff\n" + record.read_bytes())  # what is no sum and name
    monkeypatch.setenv("XIR_OFFLINE", "1")  # what was checked once needs the Hub no more
    fetch(server, "hub")


@pytest.mark.parametrize(
    ("name", "told", "says"),
    [
        ("docs.gz", "0" * 64, f"10000 bytes and sha256 {sha256(DOCS)}"),
        ("topics.tsv", "0" * 40, f"expected the sum {'0' * 40}; nothing was kept"),
        ("topics.tsv", "abc", "the server tells no sum of it"),
    ],
)
def test_a_file_that_is_not_what_the_hub_tells_is_not_kept(
    server: Server, tmp_path: Path, name: str, told: str, says: str
) -> None:
    server.told[name] = told
    message = refusal(server, "hub")
    assert message.startswith(f"{server.url}{HUB_PATH}{name}: ") and says in message
    assert f"hub-1/sub/{name}" not in files_in(tmp_path)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_says_what_opens_it(server: Server, tmp_path: Path, status: int) -> None:
    server.gate, server.refusal = "hf_right", status
    message = refusal(server, "hub")
    assert f"{server.url}{HUB_PATH}docs.gz: the server answered {status}" in message
    assert f"accept the terms at {server.url}/datasets/toy/gated and set HF_TOKEN" in message
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_token_is_told_to_the_hub_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, mirrored: bool
) -> None:
    """`localhost` is the mirror, and the store of large files."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    server.gate = "" if mirrored else "hf_right"
    mirror = server.url.replace("127.0.0.1", "localhost")
    download.get("hub", base_url=mirror if mirrored else None, progress=False)
    of_hub = set() if mirrored else {("127.0.0.1", "Bearer hf_right")}
    assert server.tokens == of_hub | {("localhost", None)}


def test_every_address_of_the_table_is_pinned_and_every_task_of_miracl_in_it() -> None:
    """A moving address (a branch) or a malformed sum would make a download unrepeatable."""
    for data in catalogue.DATASETS.values():
        for file in [*data.files, *([data.archive] if data.archive else [])]:
            part = {"raw.githubusercontent.com": 5, "huggingface.co": 7}
            words = file.url.split("/")
            assert words[0] == "https:" and data.licence
            revision = words[part[words[2]]] if words[2] in part else "0" * 40
            assert len(bytes.fromhex(revision)) == 20
            assert len(bytes.fromhex(file.sha256 or "00" * 32)) == 32
            assert bool(file.sha256) == bool(file.size)
            assert file.sha256 or words[2] == "huggingface.co"  # which tells sums
    known = {name for name in catalogue.DATASETS if name.startswith("miracl-")}
    assert known == {name for name in miracl.TASKS if not name.endswith("-untitled")}
    assert len(known) == 2 * 18
    german = catalogue.DATASETS["miracl-de"].files
    assert len(german) == 32 + 2  # upstream's loading script names 32 files
    assert german[31].url.endswith("/miracl-corpus-v1.0-de/docs-31.jsonl.gz")


@pytest.mark.skipif("XIR_DATA" not in os.environ, reason="XIR_DATA is unset")
@pytest.mark.parametrize("name", ["xquad-r", "mlqa-r", "mlqa-v1", "belebele", "miracl-yo"])
def test_the_table_agrees_with_the_checksums_beside_the_data(name: str) -> None:
    sums = Path(os.environ["XIR_DATA"]) / "checksums.sha256"
    if not sums.exists():
        pytest.skip(f"{sums} does not exist")
    data, folder = catalogue.DATASETS[name], catalogue.folder_of(name).name
    lines = (line.split() for line in sums.read_text().splitlines())
    named = {path: found for found, path in lines if not path.endswith("LICENSE")}
    known = {
        path[len(folder) + 1 :]: named[path] for path in named if path.startswith(f"{folder}/")
    }
    assert known.keys() == {file.path for file in (*data.files, *data.members)}
    assert all(known[file.path] == file.sha256 for file in data.files)
    assert catalogue.verify(name) == []
