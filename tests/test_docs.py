"""The documents: the site builds without a broken link, what they name exists, and the README stays short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
TREES = ("usdm/", "conf/", "data_prep/", "demo/", "tests/", "docs/")


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site wants usdm[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "walk/index.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    named = [name for name in re.findall(r"`([\w./-]+)`", page.read_text(encoding="utf-8")) if name.startswith(TREES)]
    named += re.findall(r"\]\(((?:docs/)?[\w/]+\.(?:md|png|json))\)", page.read_text(encoding="utf-8"))
    here = page.parent
    assert [name for name in named if not (REPOSITORY / name).exists() and not (here / name).exists()] == []


def test_the_readme_fits_a_screen_or_three() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_walk_names_few_files() -> None:
    text = (REPOSITORY / "docs/walk.md").read_text(encoding="utf-8")
    assert len({name for name in re.findall(r"`(usdm/[\w/]+\.py)`", text)}) <= 25
    assert len(re.findall(r"(?m)^\d+\. ", text)) <= 20
