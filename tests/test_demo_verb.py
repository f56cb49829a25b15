"""`usdm demo` from the command line; the page itself has tests of its own."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.request import urlopen

import gradio as gr
import pytest
from tiny_models import build_random_bundle

from usdm.cli.main import main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_bundle(tmp_path_factory.mktemp("bundle"))


def test_the_page_is_served_until_it_is_ended(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[bytes] = []

    def visit_and_end(app: gr.Blocks) -> None:
        with urlopen(app.local_url) as page:
            seen.append(page.read())
        app.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(gr.Blocks, "block_thread", visit_and_end)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["demo", f"model.name={bundle}", f"port={port}"]) == 130
    assert f"http://127.0.0.1:{port}/ (Ctrl-C ends it)" in capsys.readouterr().out
    assert b"usdm" in seen[0] and b"gradio" in seen[0]
    assert not any(tmp_path.iterdir())


def test_a_taken_port_is_told(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", f"model.name={bundle}", f"port={port}"]) == 2
    assert f"port={port}" in capsys.readouterr().err
