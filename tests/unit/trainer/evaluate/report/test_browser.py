"""The report in a real browser: opened from disk, filtered through its address, its rows counted in the live page."""

import re
import shutil
import subprocess

import pytest

from tests.helpers.waiting import TIMEOUT_S
from tests.unit.trainer.evaluate.report.report_case import make_case
from trainer.evaluate.__main__ import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    case = make_case(root)
    files = ["--predictions", f"good={case.good}", f"bad={case.bad}", "--references", str(case.references)]
    assert main(["report", *files, "--data", str(case.shards), "--out", str(root / "report.html")]) == 0
    return root / "report.html"


def open_page(report, fragment: str) -> str:
    """The page's elements after its script has run."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    profile = f"--user-data-dir={report.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *options, profile, "--dump-dom", f"{report.as_uri()}{fragment}"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return done.stdout


def visible_rows(page: str) -> list[str]:
    rows = re.findall(r'<section class="row[^>]*>', page)
    assert len(rows) == 15
    return [re.search(r'data-id="([^"]*)"', row)[1] for row in rows if " hidden" not in row]


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("", [f"scene{scene}_frame0_{place}" for scene in range(3) for place in range(5)]),
        ("#type=perception&outcome=wrong", ["scene1_frame0_1"]),
        ("#system=1&type=prediction-accuracy&outcome=right", [f"scene{scene}_frame0_3" for scene in range(3)]),
    ],
)
def test_the_address_filters_rows(report, fragment, expected):
    page = open_page(report, fragment)
    assert visible_rows(page) == expected
    frames = len({name.rsplit("_", 1)[0] for name in expected})
    assert f"{len(expected)} of 15 questions in {frames} frames" in page
    assert "<title>Driving questions, answered</title>" in page  # hostile answers did not run
