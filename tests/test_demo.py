"""``inference-mcp demo`` as a newcomer runs it: one run of the command, seen from all sides."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from PIL import Image

from inference_mcp.chart import WIDTH_PX, height_px
from inference_mcp.demo import make_folder, run_demo
from inference_mcp.settings import load_settings

BURST = 12
LIMIT_S = 30


@dataclass(frozen=True)
class DemoRun:
    """A finished run. ``folder`` is the one that it made."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def flat(self) -> str:
        """What was printed, without its line breaks."""
        return " ".join(self.out.split())

    @property
    def submitted(self) -> dict[str, str]:
        """Job ids by the burst's labels, as printed when they were submitted."""
        lines = re.findall(r"^   (\S.*?) +(?:critical|normal|batch) .*(job-\w+)", self.out, re.M)
        return dict(lines)

    @property
    def timeline(self) -> list[str]:
        """The burst's labels in the order of the timeline."""
        return re.findall(r"^ +\d+ (\S.*?) +(?:critical|normal|batch) ", self.out, re.M)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The command with an empty home, no terminal, and settings that must not leak into it."""
    home = tmp_path_factory.mktemp("home")
    env = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ} | {
        "HOME": str(home),
        "USERPROFILE": str(home),
        "INFERENCE_MCP_OUTPUT_DIR": str(home / "pictures"),
        "INFERENCE_MCP_TXT2IMG_MODEL": "not-in-the-stand-in",
        "INFERENCE_MCP_MAX_QUEUE": "1",
        "LOCALAI_API_KEY": "sk-secret",
        "LOCALAI_URL": "http://user:hidden@localai.example:8080/v1",
        "PYTHONIOENCODING": "ascii",  # a console that lacks most signs
    }
    command = [sys.executable, "-m", "inference_mcp", "demo"]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=home
    )
    (folder,) = (home / "pictures").iterdir()
    return DemoRun(done.returncode, done.stdout, done.stderr, folder)


def test_it_ends_well_and_in_time(demo: DemoRun) -> None:
    """Exit code 0 within 30 seconds, and nothing on stderr."""
    assert (demo.code, demo.err) == (0, "")


def test_each_of_the_four_tools_is_shown_with_its_answer(demo: DemoRun) -> None:
    """Text, picture, changed picture, description; each says that it is simulated."""
    parts = re.split(r"^(txt2txt|txt2img|img2img|img2txt)$", demo.out, flags=re.M)
    answers = dict(zip(parts[1::2], parts[2::2], strict=True))

    assert "This is a simulated answer" in answers["txt2txt"]
    assert "A simulated look" in answers["img2txt"]
    assert "512 by 512 pixels" in " ".join(answers["img2txt"].split())
    for tool in ("txt2img", "img2img"):
        (path,) = re.findall(r"^   path: (.*)$", answers[tool], re.M)
        assert Path(path).parent == demo.folder
        assert Path(path).is_absolute()
    assert demo.out.count("Simulated: ") == 4


def test_all_pictures_stay_on_disk_and_their_paths_are_printed(demo: DemoRun) -> None:
    """Two of the four calls, five of the burst; each is a whole PNG."""
    pictures = [path for path in demo.folder.glob("*.png") if path.name != "schedule.png"]

    assert len(pictures) == 7
    for path in demo.folder.iterdir():
        assert f"   {path}" in demo.out.splitlines()
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (512, 512)


def test_the_chart_is_drawn_beside_the_pictures(demo: DemoRun) -> None:
    """A row for each request of the burst."""
    with Image.open(demo.folder / "schedule.png") as chart:
        chart.load()
        assert (chart.format, chart.size) == ("PNG", (WIDTH_PX, height_px(BURST)))


def test_the_timeline_has_the_order_in_which_the_server_started_them(demo: DemoRun) -> None:
    """The timeline rests on the stand-in's events; the server's log is the other witness."""
    log = (demo.folder / "server.log").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in log]
    started = dict.fromkeys(e["job_id"] for e in events if e["event"] == "job.started")
    labels = {job_id: label for label, job_id in demo.submitted.items()}

    assert len(demo.timeline) == len(labels) == BURST
    assert demo.timeline == [labels[job_id] for job_id in started if job_id in labels]


def test_what_a_person_waits_for_overtakes_what_waited(demo: DemoRun) -> None:
    """Rule S5, as told: both urgent chats went before all that waited when they came (S5)."""
    told = re.findall(r"came when (\d+) others were waiting and went before (\d+)", demo.flat)

    assert len(told) == 2
    for waiting, passed in told:
        assert int(waiting) > 0
        assert waiting == passed


def test_the_metrics_count_everything(demo: DemoRun) -> None:
    """The four calls and the burst, all of them successes."""
    counted = dict(re.findall(r"^    (\w+) +(\d+) .* 100%$", demo.out, re.M))

    assert counted == {"txt2txt": "6", "txt2img": "5", "img2img": "2", "img2txt": "3", "all": "16"}


def test_it_fits_eighty_columns(demo: DemoRun) -> None:
    """Save paths, which must stay whole to be copied."""
    long = [line for line in demo.out.splitlines() if len(line) > 80]

    assert all(str(demo.folder) in line for line in long)


def test_it_says_what_to_do_next(demo: DemoRun) -> None:
    """The doctor, and a configuration that starts this very installation."""
    config = json.loads(demo.out[demo.out.index('   {\n     "mcpServers"') :])
    server = config["mcpServers"]["inference-mcp"]
    command = [server["command"], *server.get("args", [])]

    assert " doctor\n" in demo.out
    assert Path(command[0]).is_absolute()
    assert server["env"] == {"LOCALAI_URL": "http://localai.example:8080"}
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("inference-mcp ")


def test_no_secret_gets_out(demo: DemoRun) -> None:
    """Neither the user's key nor the credentials of a URL, printed or logged."""
    log = (demo.folder / "server.log").read_text(encoding="utf-8")

    for secret in ("sk-secret", "hidden"):
        assert secret not in demo.out + log


def test_where_the_output_folder_cannot_be_written_a_temporary_one_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is said, with its path."""
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    folder = make_folder(tmp_path / "file" / "pictures")

    assert folder.is_dir()
    assert folder.parent == tmp_path
    told = capsys.readouterr().out
    assert "cannot be used" in told
    assert str(folder) in told


async def test_a_failure_is_one_line_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server cannot be started: one line on stderr that names its log, exit code 1."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    settings = load_settings({"INFERENCE_MCP_OUTPUT_DIR": str(tmp_path / "pictures")})

    with anyio.fail_after(5):
        assert await run_demo(settings) == 1

    told = capsys.readouterr().err
    assert told.startswith("inference-mcp demo: ")
    assert told.count("\n") == 1
    assert "server.log" in told
