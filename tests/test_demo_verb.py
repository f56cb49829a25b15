"""`usdm demo` from the command line; the page itself has tests of its own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import gradio as gr
import pytest
from tiny_models import build_random_bundle

from demo.app import WAITING, launch
from usdm.chain import SpokenDialogPipeline
from usdm.cli.main import main
from usdm.types import InputError


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


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_number_that_no_port_has_is_told(port: int, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("demo", "serve"):
        assert main([verb, f"model.name={bundle}", f"port={port}"]) == 2
        assert f"port={port}: a port is a number from 0 to 65535" in capsys.readouterr().err


def test_a_page_for_the_public_has_a_login_and_a_limit(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = SpokenDialogPipeline.from_pretrained(bundle)
    asked: list[dict[str, Any]] = []
    queues: list[int | None] = []

    def serve(app: gr.Blocks, **given: Any) -> None:
        asked.append(given)
        queues.append(app.max_queue_size if hasattr(app, "max_queue_size") else app._queue.max_size)

    monkeypatch.setattr(gr.Blocks, "launch", serve)
    with pytest.raises(InputError, match="share=true without a login: .*USDM_LOGIN=NAME:PASSWORD"):
        launch(pipeline, share=True, block=False)
    assert not asked
    launch(pipeline, share=True, block=False, login=("ann", "secret"))
    assert asked[0]["share"] and asked[0]["auth"] == ("ann", "secret") and queues == [WAITING]


def test_a_public_page_without_a_login_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("usdm.cli.demo.load_pipeline", lambda config: pytest.fail("it is loaded"))
    for login, told in (("", "share=true without a login"), ("ann:", "set it to NAME:PASSWORD")):
        monkeypatch.setenv("USDM_LOGIN", login)
        assert main(["demo", "share=true"]) == 2
        assert told in capsys.readouterr().err
