"""The report in a real browser: drawn without errors, sorted, filtered, read by keyboard and by screen readers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meta_tests.runs import (
    EVIL,
    RUN,
    image_record,
    model_record,
    records_of_images,
    records_of_models,
    results_of,
    run_of,
)
from reports.page import page
from reports.pictures import Picture, png

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe, to check accessibility")

SIZES = {"desktop": (1280, 900), "phone": (390, 844), "A4": (718, 1000)}


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """Open a file in a window of its own; at the end of the test, the page must not have reported an error."""
    contexts, complaints = [], []

    def open_page(path, size="desktop", scheme="light", fragment=""):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, is_mobile=size == "phone", color_scheme=scheme
        )
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        shown.on(
            "request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url)
        )
        shown.goto(Path(path).as_uri() + fragment)
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == [], "the page reports errors, opens dialogs or asks for other files"


GREY = png(np.full((3, 2, 2), 0.5))


def picture(norm):
    return Picture("least robust", "robust", norm, 0, GREY, GREY, GREY, 0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of 60 images of each model in two norms, made without a run."""
    results = results_of(*records_of_images(RUN, 60), *records_of_models(RUN), status=1)
    results = replace(results, pictures=(picture("linf"), picture("l2")))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(results, "records"), encoding="utf-8")
    return path, results


def filters(shown):
    return shown.locator("#image-filters")


def column(shown, name):
    """The texts of a column of the table of images, as far as it is on the page."""
    names = shown.locator("#image-table th").all_inner_texts()
    number = names.index(name) + 1
    return shown.locator(f"#image-table tbody td:nth-child({number})").all_inner_texts()


def test_numbers_sort_as_numbers(made, opened):
    shown = opened(made[0])
    for name in ("adversarial distance", "CLEVER", "CLEVER / distance", "certified"):
        button = shown.get_by_role("button", name=name, exact=True)
        button.click()
        rising = [float(text) for text in column(shown, name)]
        assert rising == sorted(rising)
        assert shown.locator("th[aria-sort=ascending]").inner_text() == name
        button.click()
        falling = [float(text) for text in column(shown, name)]
        assert falling == sorted(falling, reverse=True)
        assert falling[0] > rising[-1]


def test_what_was_not_measured_sorts_last(tmp_path, opened):
    scores = [9.0, None, 0.00001, 100.0, 10.0]
    records = [image_record(image=image, clever=score) for image, score in enumerate(scores)]
    (tmp_path / "report.html").write_text(page(results_of(*records), "x"), encoding="utf-8")
    shown = opened(tmp_path / "report.html")
    button = shown.get_by_role("button", name="CLEVER", exact=True)
    for expected in (["0.00001", "9", "10", "100", ""], ["100", "10", "9", "0.00001", ""]):
        button.click()
        assert column(shown, "CLEVER") == expected


def test_filters_and_pages_show_what_they_say(made, opened):
    shown, results = opened(made[0]), made[1]
    assert shown.locator("#image-count").inner_text() == "240 of 240 rows"
    filters(shown).get_by_label("Model").select_option("robust")
    filters(shown).get_by_label("Norm").select_option("l2")
    assert shown.locator("#image-count").inner_text() == "60 of 240 rows"
    assert set(column(shown, "model")) == {"robust"}
    assert set(column(shown, "norm")) == {"l2"}
    violations = [row for row in results.of("robust", "l2") if row.verdict == "violation"]
    assert violations, "the random numbers have some"
    filters(shown).get_by_label("Checks").select_option("violation")
    assert shown.locator("#image-count").inner_text() == f"{len(violations)} of 240 rows"
    assert column(shown, "image") == [f"{row.image:05d}" for row in violations]
    assert all(text.startswith("CLEVER") for text in column(shown, "why"))
    shown.get_by_role("button", name="Show all").click()
    seen = []
    while True:
        seen += column(shown, "image")
        following = shown.get_by_role("button", name="Next")
        if following.is_disabled():
            break
        following.click()
    assert len(seen) == 240


def test_address_keeps_what_is_shown(made, opened):
    shown = opened(made[0], fragment="#images?model=standard&norm=linf&sort=-adversarial+distance")
    assert shown.locator("#image-count").inner_text() == "60 of 240 rows"
    falling = [float(text) for text in column(shown, "adversarial distance")]
    assert falling == sorted(falling, reverse=True)
    filters(shown).get_by_label("Image").fill("7")
    assert column(shown, "image") == ["00007"]
    assert shown.evaluate("location.hash") == "#images?model=standard&norm=linf&image=7&sort=-adversarial+distance"


def test_failure_leads_to_its_row_and_its_images(made, opened):
    shown = opened(made[0])
    band = shown.locator(".band")
    assert "expected 90.0% or more" in band.inner_text()
    band.locator("li a").nth(1).click()
    # One for each model. The page filters when its address has changed, which comes after the click.
    shown.locator("#image-count", has_text="2 of 240 rows").wait_for()
    assert band.locator("li a").all_inner_texts()[1:] == ["00001", "00004"]
    band.locator("li a").first.click()
    assert "robust keeps the label of 50 of 100" in shown.locator("tr:target").inner_text()
    shown.locator("tr:target").get_by_role("link", name="test").click()
    assert "test_robust_accuracy" in shown.locator("#tests tr:target").inner_text()


def test_images_that_have_pictures_are_shown(tmp_path, opened):
    """What went wrong on image 0, of which there is a picture, leads to it, and the picture to its numbers."""
    about = {"value": 0.5, "threshold": 0.9, "images": 2, "worst": [0]}
    records = [*records_of_images(RUN, 2), model_record("test_robust_accuracy", "failed", about, norm="linf")]
    results = replace(results_of(*records, status=1), pictures=(picture("linf"), picture("l2")))
    (tmp_path / "report.html").write_text(page(results, "x"), encoding="utf-8")
    shown = opened(tmp_path / "report.html")
    shown.locator(".band li a").nth(1).click()
    card = shown.locator(".card:target")
    assert "Image 00000, label 0" in card.inner_text()
    assert card.locator("img").count() == 6
    card.get_by_role("link").click()
    assert set(column(shown, "image")) == {"00000"}
    # No filter is left at a value that no row has.
    opened(tmp_path / "report.html", fragment="#images?checks=failed&norm=l1")
    shown.get_by_role("button", name="Show all", exact=True).click()
    shown.get_by_text("8 of 8 rows").wait_for()


def test_everything_is_reached_by_keyboard(made, opened):
    shown = opened(made[0])
    wanted = {"nav a", "#image-filters select", "#image-table th button", "summary", "#image-next"}
    wanted -= {selector for selector in wanted if not shown.locator(selector).count()}
    reached = set()
    for _ in range(200):
        shown.keyboard.press("Tab")
        reached |= {one for one in wanted if shown.evaluate("s => document.activeElement.matches(s)", one)}
        if shown.evaluate("document.activeElement.matches('#image-table th button')"):
            shown.keyboard.press("Enter")
            assert shown.locator("th[aria-sort=ascending]").count() == 1
        if reached == wanted:
            break
    assert reached == wanted


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_readable_by_everybody(made, opened, size, scheme):
    """Contrast, names of images and figures, labels, headings, language: what axe checks."""
    assert violations_of(opened(made[0], size, scheme)) == []


def violations_of(shown):
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    # The lists in the environment of pytest-html are its own.
    found = axe.Axe().run(shown, context={"exclude": [["#environment"]]}, options=rules).response["violations"]
    return [(one["id"], one["help"], node["html"][:200]) for one in found for node in one["nodes"]]


@pytest.mark.parametrize("size", list(SIZES))
def test_nothing_is_wider_than_the_page(made, opened, size):
    shown = opened(made[0], size)
    if size == "A4":
        shown.emulate_media(media="print")
    width = shown.evaluate("document.documentElement.scrollWidth")
    assert width <= SIZES[size][0]


def test_prints_on_a4(made, opened, tmp_path):
    shown = opened(made[0])
    content = shown.pdf(prefer_css_page_size=True)
    (tmp_path / "report.pdf").write_bytes(content)
    # 210 x 297 mm in points.
    assert b"/MediaBox [0 0 594.95996 841.91998]" in content or b"/MediaBox [0 0 595 842]" in content
    assert content.count(b"/Type /Page\n") in range(3, 20)


def test_figures_are_visible(made, opened):
    shown = opened(made[0])
    panels = shown.locator(".panel")
    assert panels.count() >= 12
    for number in range(panels.count()):
        box = panels.nth(number).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 150
        assert len(panels.nth(number).get_attribute("aria-label")) > 40


def test_pictures_are_not_blurred(made, opened):
    image = opened(made[0]).locator(".shots img").first
    assert image.evaluate("i => [i.naturalWidth, getComputedStyle(i).imageRendering]") == [2, "pixelated"]
    assert image.bounding_box()["width"] > 50


def test_script_in_names_is_shown_and_not_run(opened, tmp_path):
    """A dialog would be a complaint."""
    names = (f"{EVIL}</script>{EVIL}", '"><img src=x onerror=alert(1)>')
    run = run_of(models=names, dataset=f"{EVIL}'\"", class_names=(f"</td>{EVIL}",) * 10)
    records = [*records_of_images(run, 3), *records_of_models(run), model_record(EVIL, "failed", message=EVIL)]
    results = results_of(*records, run=run, status=1)
    (tmp_path / f"{EVIL.replace('/', '')}.html").write_text(page(results, EVIL), encoding="utf-8")
    shown = opened(next(tmp_path.glob("*.html")))
    assert names[0] in shown.locator(".band").inner_text()
    assert names[0] in column(shown, "model")
    assert f"</td>{EVIL}" in column(shown, "label")
    filters(shown).get_by_label("Model").select_option(names[1])
    assert set(column(shown, "model")) == {names[1]}
    assert shown.locator("img").count() == 0


def test_report_of_a_real_run(whole_run, opened):
    """pytest-html around it: one file, every test counted, its rows and filters in our colours."""
    report = whole_run / "report.html"
    for size, scheme in (("desktop", "dark"), ("phone", "light")):
        shown = opened(report, size, scheme)
        assert shown.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        assert violations_of(shown) == []
    text = shown.locator("body").inner_text()
    assert "PASS (quick): robust against standard on digits, 20 images" in text
    content = json.loads((whole_run / "results.json").read_text())
    counts = {"passed": 0, "skipped": 0}
    for record in content["records"]:
        counts[record["outcome"]] += 1
    assert shown.locator("span.passed").inner_text().strip(" ,") == f"{counts['passed']} Passed"
    assert shown.locator("span.skipped").inner_text().strip(" ,") == f"{counts['skipped']} Skipped"
    # Rows of pytest-html: tests about models. Images are in our table.
    rows = shown.locator(".collapsible .col-testId")
    assert rows.count() == sum("image" not in record["about"] for record in content["records"])
    assert shown.locator("#image-count").inner_text() == "40 of 40 rows"
    assert shown.locator(".panel").count() == 8
    assert shown.locator(".card").count() == len(content["pictures"])
    assert {one["reason"] for one in content["pictures"]} >= {"least robust"}


@pytest.mark.slow
def test_thousands_of_images_are_counted_and_not_drawn(gate, opened):
    """A property of 1,500 images: each is counted, a page of them is drawn, and 20 failed ones have their reasons."""
    (gate.folder / "test_many.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('norm', ['linf'])\n"
        "@pytest.mark.parametrize('model_name', ['robust'])\n"
        "@pytest.mark.parametrize('image', range(1500))\n"
        "def test_clever_below_distance(measurements, model_name, norm, image, measured):\n"
        "    measured({'clever': 1 + image / 7, 'distance': 2 + image / 3, 'status': 'estimated'})\n"
        "    assert image % 75, f'image {image} is wrong'\n"
        "    if image % 10 == 1: pytest.xfail('CLEVER is above')\n"
        "    if image % 10 == 2: pytest.skip('censored')\n"
    )
    assert gate("-n0", "-q", "test_many.py", timeout=200).ret == 1
    report = gate.results_folder / "report.html"
    assert report.stat().st_size < 1_500_000
    shown = opened(report)
    counted = {name: shown.locator(f"span.{name}").inner_text() for name in ("failed", "passed", "skipped", "xfailed")}
    assert counted == {
        "failed": "20 Failed,",
        "passed": "1180 Passed,",
        "skipped": "150 Skipped,",
        "xfailed": "150 Expected failures,",
    }
    assert shown.locator("#image-count").inner_text() == "1500 of 1500 rows"
    assert shown.locator(".collapsible").count() == 20
    assert "image 75 is wrong" in shown.locator(".collapsible .col-why").all_inner_texts()[1]
    assert shown.locator("*").count() < 4000
    filters(shown).get_by_label("Checks").select_option("failed")
    assert [int(text) for text in column(shown, "image")] == list(range(0, 1500, 75))
    content = json.loads((gate.results_folder / "results.json").read_text())
    assert len(content["images"]) == 1500


def test_evil_names_of_files_and_classes(gate, opened):
    """A whole run: pytest-html writes names of tests as HTML. An image that is asked for would be a complaint."""
    evil = "<img src=x onerror=alert(1)>"
    (gate.folder / f"{evil}.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        bright = 20 * (images.mean(dim=(1, 2, 3)) - 0.5)\n"
        "        return torch.stack([-bright, bright], dim=1)\n"
        "def net(): return Net().eval()\n"
    )
    random = np.random.default_rng(0)
    for number, name in enumerate((f"0{evil}", f"1{evil}")):
        (gate.folder / "pictures" / name).mkdir(parents=True)
        for image in range(8):
            pixels = random.integers(60, 100, (8, 8, 3)) + 100 * number
            Image.fromarray(pixels.astype(np.uint8)).save(gate.folder / "pictures" / name / f"{image}.png")
    (gate.folder / "test_mine.py").write_text(
        "import pytest\n"
        f"@pytest.mark.parametrize('name', [{evil!r}])\n"
        "def test_distance(candidate, name, measured): measured(value=0.5, worst=[0])\n"
        f"def test_bad_distance(candidate, measured): assert not candidate, {evil!r}\n"
    )
    options = (
        "--model",
        f"{evil}.py:net",
        "--dataset",
        "folder:pictures",
        "--images",
        "6",
        "--batch-size=6",
        "--quick",
        "--norms",
        "linf",
    )
    assert gate("-n0", *options, "-k", "distance or accuracy", "robustness_tests", "test_mine.py").ret == 1
    shown = opened(gate.results_folder / "report.html")
    text = shown.locator("body").inner_text()
    assert text.count(evil) > 5
    assert f"1{evil}" in column(shown, "label")
    assert any(evil in name for name in shown.locator(".col-testId").all_inner_texts())
    assert shown.locator("img[src=x]").count() == 0
