"""How large and how fast the report of many tests is, in a real browser: python benchmarks/report.py [images].

Needs playwright and chromium. Times are of this machine; sizes and counts are exact.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
TESTS = """
import pytest

@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("model_name", ["robust", "standard"])
@pytest.mark.parametrize("image", range({images}))
def test_clever_below_distance(measurements, model_name, norm, image, measured):
    measured({{"clever": (1 + image % 97) / 300, "distance": (1 + image % 89) / 200, "status": "estimated"}})
    assert image % 500, f"image {{image}} is wrong"
    if image % 10 == 1:
        pytest.xfail("CLEVER is above the adversarial distance")
    if image % 10 == 2:
        pytest.skip("censored")
"""


def main():
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 2500
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".report-") as temporary:
        folder = Path(temporary)
        file = folder / "test_many.py"
        file.write_text(TESTS.format(images=images))
        command = [sys.executable, "-m", "pytest", "-q", "-n2", str(file), f"--results={folder / 'results'}"]
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"{4 * images:,} tests: {done.stdout.splitlines()[-1]}, {time.perf_counter() - begin:.0f} s in all")
        report = folder / "results/report.html"
        print(
            f"report.html {report.stat().st_size / 1e6:.2f} MB, results.json "
            f"{(folder / 'results/results.json').stat().st_size / 1e6:.1f} MB"
        )
        browse(report)


def browse(report: Path):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        opened = []
        for _ in range(5):
            page = browser.new_page()
            begin = time.perf_counter()
            page.goto(report.as_uri())
            page.locator("#image-table tbody tr").first.wait_for()
            opened.append(time.perf_counter() - begin)
        elements = page.locator("*").count()
        print(f"opens in {statistics.median(opened):.2f} s ({max(opened):.2f} s at most), {elements:,} elements")
        sort = page.get_by_role("button", name="CLEVER", exact=True)
        filters = page.locator("#image-filters")
        rows = page.locator(".collapsible .col-result")
        for name, click in {
            "sort by a number": sort.click,
            "filter by checks": lambda: filters.get_by_label("Checks").select_option("violation"),
            "all again": filters.get_by_role("button").click,
            "next page": page.locator("#image-next").click,
            "open the traceback of a test": rows.first.click,
            "hide passed tests": page.locator("input[data-test-result=passed]").click,
        }.items():
            print(f"{name}: {timed(page, click) * 1000:.0f} ms")


def timed(page: Page, click: Callable[[], object]):
    """Until the browser has drawn what the click has changed."""
    begin = time.perf_counter()
    click()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
