"""What a grid keeps in memory from one study to the next."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import pytest

from flaxfer.runtime import platform
from flaxfer.study import open_study
from flaxfer.study.open_study import Studies
from tests.helpers import restored_compilation_cache
from tests.study.test_looks import config_of


def test_programs_are_forgotten_with_their_target_or_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(open_study, "forget_programs", lambda: done.append("programs"))
    monkeypatch.setattr(platform, "return_memory", lambda: done.append("memory"))
    monkeypatch.setattr(  # Reads no data.
        open_study,
        "OpenStudy",
        lambda config, *_: types.SimpleNamespace(data=types.SimpleNamespace(config=config)),
    )
    config = dataclasses.replace(config_of(tmp_path / "a"), cache=str(tmp_path / "cache"))
    other_task = dataclasses.replace(config, intermediate=None)
    train = dataclasses.replace(config.target.train, max_length=9)
    target = dataclasses.replace(config.target, train=train)
    other_target = dataclasses.replace(other_task, target=target)
    model = dataclasses.replace(config.model, path="other")
    other_model = dataclasses.replace(other_target, model=model)
    with restored_compilation_cache():
        studies = Studies(config)
        opened = []
        for one in (config, config, other_task, other_target, other_model):
            studies.open(one)
            opened.append(list(done))
            done.clear()
    both = ["programs", "memory"]
    assert opened == [["memory"], [], ["memory"], both, both]
