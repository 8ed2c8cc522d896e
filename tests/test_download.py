"""Downloads against a local server that keeps upstream's paths, and that also breaks."""

import dataclasses
import hashlib
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xir_lib.data import catalogue as download
from xir_lib.data import miracl
from xir_lib.data.catalogue import DataSet, Member, RemoteFile
from xir_lib.data.tasks import load_task
from xir_lib.errors import InputError

ONE, TWO = b"first file\n", "zweite Datei: Größe\n".encode() * 100


def squad_bytes(questions: int) -> bytes:
    qas = [{"id": f"q{n}", "question": f"what {n}?", "answers": []} for n in range(questions)]
    return json.dumps({"data": [{"paragraphs": [{"context": "text", "qas": qas}]}]}).encode()


def archive_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


ZIP = archive_bytes(
    {"TOY/test/a.json": squad_bytes(3), "TOY/LICENSE": b"free", "TOY/dev/b.json": squad_bytes(1)}
)


def remote(path: str, content: bytes) -> RemoteFile:
    return RemoteFile(
        path,
        f"https://upstream.invalid/org/rev/{path}",
        hashlib.sha256(content).hexdigest(),
        len(content),
    )


TOY = DataSet("toy", "two files", "CC0", files=(remote("one.txt", ONE), remote("sub/two.txt", TWO)))
ZIPPED = DataSet(
    "zipped",
    "one archive",
    "CC0",
    archive=remote("toy.zip", ZIP),
    root="TOY",
    members=(Member("test/a.json", 3),),
)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` by path; `broken` maps a path to the ways its next answers fail, in
    order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {
            "/org/rev/one.txt": ONE,
            "/org/rev/sub/two.txt": TWO,
            "/org/rev/toy.zip": ZIP,
        }
        self.broken: dict[str, list[str]] = {}
        self.hits: Counter[str] = Counter()
        self.finished = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.hits[self.path] += 1
        ways = self.server.broken.get(self.path, [])
        way = ways.pop(0) if ways else "well"
        body = self.server.content.get(self.path)
        if body is None or way.isdigit():
            self.send_error(int(way) if way.isdigit() else 404)
            return
        if way == "wrong":
            body = b"<html>log in to the hotel network</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half] if way in ("truncated", "stalled") else body)
        if way == "stalled":
            self.server.finished.wait(20)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setattr(download, "DATASETS", {"toy": TOY, "zipped": ZIPPED})
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("XIR_OFFLINE", raising=False)
    with Server() as local:
        threading.Thread(
            target=local.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        yield local
        local.finished.set()
        local.shutdown()


def fetch(server: Server, name: str = "toy", **options: float) -> Path:
    return download.get(name, base_url=server.url, progress=False, **options)  # type: ignore[arg-type]


def files_in(tmp_path: Path) -> list[str]:
    """Every file under the data folder but the lock, temporaries included."""
    root = tmp_path / "data"
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def refusal(server: Server, name: str = "toy", **options: float) -> str:
    with pytest.raises(InputError) as caught:
        fetch(server, name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_get_brings_every_file_under_upstreams_name(server: Server, tmp_path: Path) -> None:
    assert fetch(server) == tmp_path / "data" / "toy"
    assert files_in(tmp_path) == ["toy/one.txt", "toy/sub/two.txt"]
    assert (tmp_path / "data/toy/sub/two.txt").read_bytes() == TWO
    assert download.verify("toy") == []


def test_what_is_right_is_not_fetched_again_and_what_is_wrong_is(
    server: Server, tmp_path: Path
) -> None:
    fetch(server)
    (tmp_path / "data/toy/one.txt").write_bytes(ONE.upper())  # the length stays, the sum does not
    fetch(server)
    fetch(server)
    assert server.hits == {"/org/rev/one.txt": 2, "/org/rev/sub/two.txt": 1}
    assert (tmp_path / "data/toy/one.txt").read_bytes() == ONE


def test_a_complete_data_set_needs_no_network(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(server)
    monkeypatch.setenv("XIR_OFFLINE", "1")
    fetch(server)


def test_progress_bar_names_the_file_and_goes_to_stderr(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    download.get("toy", base_url=server.url + "/", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "one.txt" in err and "100%" in err


@pytest.mark.parametrize("way", ["truncated", "stalled", "503"])
def test_passing_failures_are_tried_again(server: Server, tmp_path: Path, way: str) -> None:
    server.broken["/org/rev/one.txt"] = [way, way]
    fetch(server, timeout=0.3)
    assert server.hits["/org/rev/one.txt"] == 3
    assert files_in(tmp_path) == ["toy/one.txt", "toy/sub/two.txt"]


@pytest.mark.parametrize(
    ("way", "hits", "says"),
    [
        ("404", 1, ["404", "Not Found"]),
        ("500", 3, ["500", "3 attempts"]),
        # TWO has 22 bytes (20 letters, two of them of two bytes) x 100 = 2,200; half of it is sent
        ("truncated", 3, ["broke off after 1100 bytes", "1100 more", "3 attempts"]),
        ("stalled", 3, ["nothing came for 0.3 seconds", "3 attempts"]),
        (
            "wrong",
            1,
            ["40 bytes", hashlib.sha256(b"<html>log in to the hotel network</html>").hexdigest()],
        ),
    ],
)
def test_lasting_failures_are_one_line_and_leave_nothing(
    server: Server, tmp_path: Path, way: str, hits: int, says: list[str]
) -> None:
    server.broken["/org/rev/sub/two.txt"] = [way] * 9
    message = refusal(server, timeout=0.3)
    assert f"{server.url}/org/rev/sub/two.txt" in message
    for word in says:
        assert word in message
    if way == "wrong":
        assert hashlib.sha256(TWO).hexdigest() in message
    assert server.hits["/org/rev/sub/two.txt"] == hits
    assert files_in(tmp_path) == [
        "toy/one.txt"
    ]  # what was whole is kept, of the other there is no part


def test_a_failed_replacement_keeps_the_file_that_was_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data/toy").mkdir(parents=True)
    (tmp_path / "data/toy/one.txt").write_text("mine")
    server.broken["/org/rev/one.txt"] = ["404"]
    refusal(server)
    assert (tmp_path / "data/toy/one.txt").read_text() == "mine"


def test_closed_port_and_unknown_host(server: Server, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(
        InputError, match=r"one\.txt: no connection \(Connection refused\).*by hand$"
    ):
        download.get("toy", base_url=closed, progress=False)
    # RFC 6761: .invalid never resolves; the error number's text differs between systems
    with pytest.raises(InputError, match=r"http://upstream\.invalid/.*no connection \("):
        download.get("toy", base_url="http://upstream.invalid", progress=False, timeout=5)
    with pytest.raises(InputError, match="no-address/org"):
        download.get("toy", base_url="no-address", progress=False)
    assert files_in(tmp_path) == []


def test_a_timeout_that_is_none(server: Server) -> None:
    with pytest.raises(InputError, match="timeout must be above 0 seconds, got 0"):
        download.get("toy", base_url=server.url, timeout=0)


def test_offline_is_obeyed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XIR_OFFLINE", "1")
    message = refusal(server)
    assert (
        message.startswith("XIR_OFFLINE is set; unset it")
        and str(tmp_path / "data/toy/one.txt") in message
    )
    assert not server.hits


def test_unknown_name_lists_the_known(server: Server) -> None:
    assert refusal(server, "squad") == "unknown data set 'squad'; known: toy, zipped"
    with pytest.raises(InputError, match="known: toy, zipped"):
        download.verify("squad")


def test_folder_that_cannot_be_made(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "file" / "data"))
    message = refusal(server)
    assert (
        message.startswith(f"cannot write into {tmp_path}/file/data/toy (")
        and "XIR_DATA" in message
    )


def test_read_only_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    user = os.geteuid()
    try:
        if user == 0:  # root may write everywhere
            os.seteuid(65534)
        assert "Permission denied" in refusal(server)
    finally:
        os.seteuid(user)


def test_a_killed_download_starts_again_cleanly(server: Server, tmp_path: Path) -> None:
    server.broken["/org/rev/sub/two.txt"] = ["stalled"]
    code = (
        "import sys; from xir_lib.data import catalogue as download;"
        "from xir_lib.data.catalogue import *;"
        f"download.DATASETS = {{'toy': {TOY!r}}};"
        f"download.get('toy', base_url={server.url!r}, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 30
    while (
        not (started := list((tmp_path / "data/toy/sub").glob(".two.txt.*.tmp")))
        and time.monotonic() < deadline
    ):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert started and files_in(tmp_path) != [
        "toy/one.txt"
    ]  # killed in the middle: the temporary is there
    fetch(server)
    assert files_in(tmp_path) == ["toy/one.txt", "toy/sub/two.txt"]
    assert server.hits["/org/rev/one.txt"] == 1


def test_two_at_once_fetch_each_file_once(server: Server, tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fetch(server)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert server.hits == {"/org/rev/one.txt": 1, "/org/rev/sub/two.txt": 1}


def test_archive_is_unpacked_checked_and_deleted(server: Server, tmp_path: Path) -> None:
    fetch(server, "zipped")
    assert files_in(tmp_path) == ["zipped/test/a.json"]  # neither the archive nor its other members
    fetch(server, "zipped")
    assert server.hits["/org/rev/toy.zip"] == 1


def test_archive_put_there_by_hand_needs_no_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIR_OFFLINE", "1")
    (tmp_path / "data/zipped").mkdir(parents=True)
    (tmp_path / "data/zipped/toy.zip").write_bytes(ZIP)
    fetch(server, "zipped")
    assert files_in(tmp_path) == ["zipped/test/a.json"]


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (Member("test/a.json", 4), "3 questions, expected 4"),
        (Member("test/c.json", 1), "has no TOY/test/c.json"),
    ],
)
def test_archive_with_other_content_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: Member, says: str
) -> None:
    other = DataSet("zipped", "", "", archive=ZIPPED.archive, root="TOY", members=(member,))
    monkeypatch.setitem(download.DATASETS, "zipped", other)
    assert says in refusal(server, "zipped")
    assert not list((tmp_path / "data").rglob("*.json"))


def test_list_and_verify_tell_present_missing_and_wrong(server: Server, tmp_path: Path) -> None:
    assert [row["status"] for row in download.list_datasets()] == ["missing", "missing"]
    fetch(server)
    fetch(server, "zipped")
    rows = download.list_datasets()
    assert [row["status"] for row in rows] == ["present", "present"]
    assert rows[0] | {"folder": None} == {
        "name": "toy",
        "description": "two files",
        "licence": "CC0",
        "download_size": 11 + 2200,
        "folder": None,
        "status": "present",
        "problems": [],
    }
    (tmp_path / "data/toy/one.txt").write_bytes(ONE[:-1])
    (tmp_path / "data/toy/sub/two.txt").unlink()
    (tmp_path / "data/zipped/test/a.json").write_bytes(squad_bytes(2))
    toy, zipped = download.list_datasets()
    assert (toy["status"], zipped["status"]) == ("wrong", "wrong")
    assert toy["problems"] == [
        f"{tmp_path}/data/toy/one.txt has 10 bytes, expected 11",
        f"{tmp_path}/data/toy/sub/two.txt is missing",
    ]
    assert zipped["problems"] == [f"{tmp_path}/data/zipped/test/a.json has 2 questions, expected 3"]


# ---- the Hub
# ----------------------------------------------------------------------

# the real addresses of miracl-sw; `git hash-object` of the second and third file gives the sums
# beside them
CORPUS = "/datasets/miracl/miracl-corpus/resolve/d921ec7e349ce0d28daf30b2da9da5ee698bef0d"
JUDGED = "/datasets/miracl/miracl/resolve/c83d354623fc0b7172e664ade0404df78624abe3/miracl-v1.0-sw"
SWAHILI = {
    f"{CORPUS}/miracl-corpus-v1.0-sw/docs-0.jsonl.gz": (
        b"the corpus" * 1000,
        None,
    ),
    f"{JUDGED}/topics/topics.miracl-v1.0-sw-dev.tsv": (
        b"1\tNani?\n",
        "a94278247d59b6ba941b5970f44eedede970364e",
    ),
    f"{JUDGED}/qrels/qrels.miracl-v1.0-sw-dev.tsv": (
        b"1 Q0 1#0 1\n",
        "155f7ba83a39884a3b6c56c51281f29c477e7dba",
    ),
}
DOCS, TOPICS, QRELS = SWAHILI


class Hub(Server):
    """The Hub's layout: small files under their git blob's sum, large ones redirected to a store on
    another host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubHandler
        self.content = {path: body for path, (body, _) in SWAHILI.items()}
        self.gate = ""  # the token that opens miracl/miracl; empty: open to all
        self.refusal = 401
        self.seen: list[tuple[str, str, str | None]] = []  # host, path, token
        self.told: dict[str, str] = {}  # other sums than the right ones


class HubHandler(Handler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        token = self.headers.get("Authorization")
        self.server.seen.append((str(self.headers.get("Host")).split(":")[0], self.path, token))
        path = self.path.removeprefix("/store")
        content = self.server.content.get(path)
        if content is None:
            self.send_error(404)
            return
        if (
            self.server.gate
            and path.startswith("/datasets/miracl/miracl/")
            and token != f"Bearer {self.server.gate}"
        ):
            self.send_error(self.server.refusal)
            return
        blob = SWAHILI.get(path, (None, None))[1]
        large = blob is None and self.path == path
        self.send_response(302 if large else 200)
        if large:
            self.send_header(
                "Location", f"http://localhost:{self.server.server_address[1]}/store{path}"
            )
            self.send_header(
                "X-Linked-Etag",
                f'"{self.server.told.get(path) or hashlib.sha256(content).hexdigest()}"',
            )
            self.send_header("X-Linked-Size", str(len(content)))
        elif blob:
            self.send_header("ETag", f'W/"{self.server.told.get(path, blob)}"')
        self.send_header("Content-Length", "0" if large else str(len(content)))
        self.end_headers()
        if body and not large:
            self.server.hits[path] += 1
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("XIR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: os.environ["HF_TOKEN"] or None)
    monkeypatch.delenv("XIR_OFFLINE", raising=False)
    with Hub() as local:
        swahili = download.DATASETS["miracl-sw"]
        files = tuple(
            RemoteFile(file.path, file.url.replace("https://huggingface.co", local.url))
            for file in swahili.files
        )
        here = dataclasses.replace(swahili, files=files)
        monkeypatch.setattr(download, "HUB", local.url)
        monkeypatch.setattr(download, "DATASETS", {"miracl-sw": here})
        threading.Thread(
            target=local.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        yield local
        local.shutdown()


def hub_refusal() -> str:
    with pytest.raises(InputError) as caught:
        download.get("miracl-sw", progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_of_the_hub_are_checked_by_the_sums_that_it_tells(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = download.get("miracl-sw", progress=False)
    assert folder == tmp_path / "data/miracl-v1.0-sw"
    for path, (content, _) in SWAHILI.items():
        kind = {DOCS: "corpus", TOPICS: "topics", QRELS: "qrels"}[path]
        assert (folder / kind / Path(path).name).read_bytes() == content
    sums = subprocess.run(
        ["sha256sum", "--check", "--quiet", "checksums.sha256"], cwd=folder, capture_output=True
    )
    assert sums.returncode == 0, sums.stderr
    assert download.verify("miracl-sw") == [] and download.list_datasets()[0]["status"] == "present"
    monkeypatch.setenv("XIR_OFFLINE", "1")  # what was checked once needs the Hub no more
    download.get("miracl-sw", progress=False)
    assert hub.hits == {DOCS: 1, TOPICS: 1, QRELS: 1}
    record = folder / "checksums.sha256"
    record.write_bytes(b"\n\xff\n" + record.read_bytes())  # what is no sum and name is passed over
    assert download.verify("miracl-sw") == []
    (folder / "qrels" / Path(QRELS).name).write_bytes(b"1 Q0 1#0 0\n")
    assert "has sha256" in download.verify("miracl-sw")[0]


@pytest.mark.parametrize(
    ("path", "told", "says"),
    [
        (DOCS, "0" * 64, "arrived with 10000 bytes and sha256"),
        (
            TOPICS,
            "0" * 40,
            "arrived with 8 bytes and git blob a94278247d59b6ba941b5970f44eedede970364e",
        ),
        (TOPICS, "abc", "the server tells no sum and size"),
    ],
)
def test_a_file_that_is_not_what_the_hub_tells_is_not_kept(
    hub: Hub, tmp_path: Path, path: str, told: str, says: str
) -> None:
    hub.told[path] = told
    message = hub_refusal()
    assert f"{hub.url}{path}: {says}" in message
    assert not [name for name in files_in(tmp_path) if name.endswith(Path(path).name)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_answer_says_what_opens_it(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.gate, hub.refusal = "hf_right", status
    message = hub_refusal()
    assert f"{hub.url}{TOPICS}: the server answered {status}" in message
    assert f"accept the terms at {hub.url}/datasets/miracl/miracl and set HF_TOKEN" in message
    assert files_in(tmp_path) == [
        "miracl-v1.0-sw/checksums.sha256",
        "miracl-v1.0-sw/corpus/docs-0.jsonl.gz",
    ]


def test_the_token_opens_the_gate_and_is_told_to_the_hub_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gate = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    download.get("miracl-sw", progress=False)
    assert {token for host, _, token in hub.seen if host == "127.0.0.1"} == {"Bearer hf_right"}
    assert [token for host, _, token in hub.seen if host == "localhost"] == [
        None
    ]  # the store of large files


def test_a_mirror_is_not_told_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    download.get("miracl-sw", base_url=hub.url.replace("127.0.0.1", "localhost"), progress=False)
    assert {token for _, _, token in hub.seen} == {None}


def test_a_file_put_there_by_hand_is_checked_and_not_fetched(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "data/miracl-v1.0-sw/corpus/docs-0.jsonl.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(SWAHILI[DOCS][0])
    assert any("no sum on record" in line for line in download.verify("miracl-sw"))
    download.get("miracl-sw", progress=False)
    assert hub.hits == {TOPICS: 1, QRELS: 1} and download.verify("miracl-sw") == []


def test_a_pool_of_hard_negatives_arrives_and_loads(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "332a9acb49f5e83d5397683f79d23e588f685916"
    at = f"/datasets/mteb/MIRACLRetrievalHardNegatives/resolve/{revision}"
    tables = {
        "corpus": {"_id": ["1#0", "1#1"], "title": ["Owiwi", ""], "text": ["Ẹyẹ ni.", "ikeji"]},
        "queries": {"_id": ["7"], "text": ["Kí ni owiwi?"]},
        "qrels": {"query-id": ["7", "7"], "corpus-id": ["1#0", "1#1"], "score": [1, 0]},
    }
    for kind, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{kind}.parquet")
        content = (tmp_path / f"{kind}.parquet").read_bytes()
        hub.content[f"{at}/yo-{kind}/dev-00000-of-00001.parquet"] = content
    data = download._miracl_hard("yo")
    files = tuple(
        dataclasses.replace(file, url=file.url.replace("https://huggingface.co", hub.url))
        for file in data.files
    )
    monkeypatch.setattr(download, "DATASETS", {data.name: dataclasses.replace(data, files=files)})
    assert download.get("miracl-yo-hard", progress=False) == tmp_path / "data/miracl-yo-hard"
    assert download.verify("miracl-yo-hard") == [] and sum(hub.hits.values()) == 3
    task = load_task("miracl-yo-hard")
    assert task.name == "miracl-yo-hard" and task.passages["text"].to_pylist() == [
        "Owiwi Ẹyẹ ni.",
        "ikeji",
    ]


def test_every_language_of_miracl_has_its_files() -> None:
    names = {name for name in download.DATASETS if name.startswith("miracl-")}
    assert (
        names == {name for name in miracl.TASKS if not name.endswith("-untitled")}
        and len(names) == 2 * 18
    )
    german = download.DATASETS["miracl-de"].files
    assert len(german) == 32 + 2  # upstream's loading script names 32 files
    assert german[31].url.endswith("/miracl-corpus-v1.0-de/docs-31.jsonl.gz")


def test_the_table_pins_every_address() -> None:
    """A moving address (a branch) or a malformed sum would make a download unrepeatable."""
    for data in download.DATASETS.values():
        remotes = data.files or (data.archive,)
        assert data.licence and data.parts
        assert data.download_size > 0 or not any(file.sha256 for file in data.files)
        for file in remotes:
            assert file is not None and file.url.startswith("https://")
            if file.sha256 is None:  # only the Hub tells sums
                assert file.url.startswith("https://huggingface.co/datasets/") and file.size is None
            else:
                assert len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef")
            if "githubusercontent" in file.url or "huggingface" in file.url:
                revision = (
                    file.url.split("/resolve/")[1].split("/")[0]
                    if "huggingface" in file.url
                    else file.url.split("/")[5]
                )
                assert len(revision) == 40 and set(revision) <= set("0123456789abcdef")


@pytest.mark.skipif("XIR_DATA" not in os.environ, reason="XIR_DATA is unset")
def test_the_table_agrees_with_the_checksums_beside_the_data() -> None:
    sums = Path(os.environ["XIR_DATA"]) / "checksums.sha256"
    if not sums.exists():
        pytest.skip(f"{sums} does not exist")
    known = {
        path: value for value, path in (line.split() for line in sums.read_text().splitlines())
    }
    for name in ("xquad-r", "mlqa-r"):
        table = {f"{name}/{file.path}": file.sha256 for file in download.DATASETS[name].files}
        assert table == {
            path: value
            for path, value in known.items()
            if path.startswith(f"{name}/") and path.endswith(".json")
        }
        assert download.verify(name) == []
    for name in ("belebele", "miracl-yo"):
        folder = download.DATASETS[name].folder.name
        table = {f"{folder}/{file.path}": file.sha256 for file in download.DATASETS[name].files}
        assert table == {
            path: value for path, value in known.items() if path.startswith(f"{folder}/")
        }
        assert download.verify(name) == []
    members = {f"mlqa-v1/{member.path}" for member in download.DATASETS["mlqa-v1"].members}
    assert members == {
        path for path in known if path.startswith("mlqa-v1/") and path.endswith(".json")
    }
    assert download.verify("mlqa-v1") == []
