"""Hooks of MkDocs: files outside of `docs/` become pages, and links to them work on the site and in the checkout."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
WEIGHTS = "examples/cifar10_study/weights"
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "examples/cifar10_study/README.md": "examples.md",
    "examples/cifar10_study/models.py": "models.txt",
    "examples/cifar10_study/thresholds.toml": "thresholds-of-examples.txt",
    f"{WEIGHTS}/README.md": "weights/index.md",
    "robustness_tests/thresholds.toml": "thresholds.txt",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
} | {f"{WEIGHTS}/{file.name}": f"weights/{file.name}.txt" for file in sorted((ROOT / WEIGHTS).glob("LICENSE.*"))}
"""By path in the checkout: the path on the site."""

SOURCES = {page: source for source, page in PAGES.items()}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Rewrite links, which are relative to the file in the checkout, for the place of the page on the site."""
    place = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(place, f"docs/{place}"))

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        on_site = PAGES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(on_site, posixpath.dirname(place) or '.')}"

    return LINK.sub(rewritten, markdown)
