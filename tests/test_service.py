"""The loop's own word on how it is."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from daemon_process import write_config
from onelook import config, service
from onelook.metrics import Metrics
from onelook.pipeline import Pipeline

PICTURES = {"name": "door", "url": f"{Path(service.__file__).parent}/portraits/"}
"""Two, and then the end."""


def test_a_slow_start_is_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a board that is busy installing packages the network may take longer to load than a turn may last."""
    load, serve, said = service._model, Metrics.serve, []

    def slowly(*arguments: Any) -> Any:
        time.sleep(service.STUCK * 1.1)
        return load(*arguments)

    def watched(metrics: Metrics, *arguments: Any, **options: Any) -> Any:
        said.append(options["healthy"]())
        return serve(metrics, *arguments, **options)

    monkeypatch.setattr(service, "STUCK", 2.0)
    monkeypatch.setattr(service, "_model", slowly)
    monkeypatch.setattr(Metrics, "serve", watched)

    service.run(config.load(write_config(tmp_path, PICTURES)))

    assert said == [True]


def test_a_loop_that_stood_still_says_so_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step, steps = Pipeline.step, []

    def hangs_once(pipeline: Pipeline, frame: Any) -> Any:
        steps.append(frame)
        if len(steps) == 1:
            time.sleep(service.STUCK * 1.1)
        return step(pipeline, frame)

    monkeypatch.setattr(service, "STUCK", 1.0)
    monkeypatch.setattr(Pipeline, "step", hangs_once)

    with caplog.at_level(logging.WARNING, "onelook.service"):
        service.run(config.load(write_config(tmp_path, PICTURES)))

    assert "the loop stood still for" in caplog.text
