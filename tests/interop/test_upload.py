"""Uploads to the hub, whose interface is replaced: no request leaves the machine."""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from flaxfer.errors import ConfigError, DataError
from flaxfer.interop import upload
from flaxfer.main import main
from tests.interop.test_export_task_types import TASKS, stage_without_training

REPOSITORY = "me/my-model"


def refusal(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    response: Any = types.SimpleNamespace(headers={}, request=None, status_code=status)
    return kind("no", response=response)


@dataclasses.dataclass
class File:
    rfilename: str


@dataclasses.dataclass
class Info:
    private: bool
    siblings: list[File]


class Hub:
    """The calls of `HfApi` that are used, with the names and arguments that it has."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.errors: dict[str, Exception] = {}
        self.info: Info | None = None
        self.files: set[str] = set()

    def _call(self, name: str, *values: Any, **settings: Any) -> None:
        inspect.signature(getattr(HfApi, name)).bind(self, *values, **settings)
        self.calls.append((name, {**dict(enumerate(values)), **settings}))
        if name in self.errors:
            raise self.errors[name]

    def whoami(self) -> dict[str, Any]:
        self._call("whoami")
        return {"name": "me"}

    def model_info(self, repo_id: str) -> Info:
        self._call("model_info", repo_id)
        if self.info is None:
            raise refusal(404, RepositoryNotFoundError)
        return self.info

    def create_repo(self, repo_id: str, **settings: Any) -> huggingface_hub.RepoUrl:
        self._call("create_repo", repo_id, **settings)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, **settings: Any) -> None:
        folder = settings["folder_path"]
        self.files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        self._call("upload_folder", **settings)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(upload.huggingface_hub, "HfApi", lambda: hub)
    return hub


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage whose training data is partly from the hub."""
    task = TASKS["regression"]
    folder, _ = stage_without_training(tmp_path_factory.mktemp("stage"), "bert", task)
    origin = json.loads((folder / "origin.json").read_text())
    for split in origin["data"]:
        split["sources"] = ["someone/pairs", "own.tsv"] if split["split"] == "train" else ["x/dev"]
    (folder / "origin.json").write_text(json.dumps(origin))
    return folder


def test_an_export_is_uploaded_with_what_its_card_needs(
    hub: Hub, stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(stage), str(out), "--push_to_hub", REPOSITORY, "--private"]
    words += ["--license", "apache-2.0", "--base_model", "google-bert/bert-base-uncased"]
    assert main([*words, "--pooling=mean"]) == 0
    assert capsys.readouterr().out == f"{out}\nhttps://huggingface.co/{REPOSITORY}\n"
    assert [name for name, _ in hub.calls] == [
        *("whoami", "model_info", "create_repo", "upload_folder")
    ]
    assert hub.calls[2][1] == {0: REPOSITORY, "private": True, "exist_ok": True}
    settings, files = hub.calls[3][1], hub.files
    assert (settings["repo_id"], settings["delete_patterns"]) == (REPOSITORY, "*")
    assert files == {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert {"config.json", "model.safetensors", "README.md", "1_Pooling/config.json"} < files
    card = huggingface_hub.ModelCard.load(out / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "google-bert/bert-base-uncased"
    assert card.data.datasets == ["someone/pairs"]  # Not those of dev, and no file.
    assert "This model is google-bert/bert-base-uncased, fine-tuned on score" in card.text
    assert f"AutoTokenizer.from_pretrained('{REPOSITORY}'" in card.text
    assert f"SentenceTransformer('{REPOSITORY}')" in card.text
    assert "Embeddings were neither trained nor measured." in card.text
    assert "from a file with the fields text_a:" in card.text


def test_nothing_is_exported_if_it_cannot_be_uploaded(
    hub: Hub, stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["export", str(stage), str(out), "--push-to-hub"]
    hub.errors["whoami"] = LocalTokenNotFoundError("no token")
    assert main([*words, REPOSITORY]) == 2
    message = capsys.readouterr().err
    assert "nobody is logged in" in message and "hf auth login" in message
    assert "HF_TOKEN" in message
    assert main([*words, "a--b"]) == 2
    assert "is no id of the hub" in capsys.readouterr().err
    assert main([*words[:-1], "--private"]) == 2
    assert "nothing is uploaded" in capsys.readouterr().err
    assert not out.exists() and [name for name, _ in hub.calls] == ["whoami"]


@pytest.mark.parametrize(
    ("name", "error", "kind", "message"),
    [
        ("whoami", refusal(401), ConfigError, "the token is not valid"),
        ("whoami", OfflineModeIsEnabled("offline"), ConfigError, "unset HF_HUB_OFFLINE"),
        ("model_info", refusal(403), ConfigError, "the token may not write there"),
        ("model_info", ConnectionError("no route"), DataError, "ConnectionError: no route"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(
    hub: Hub, name: str, error: Exception, kind: type[Exception], message: str
) -> None:
    hub.errors[name] = error
    with pytest.raises(kind) as caught:
        upload.check(REPOSITORY)
    assert message in str(caught.value) and REPOSITORY in str(caught.value)


def test_a_repository_in_use_is_not_overwritten_unasked(hub: Hub) -> None:
    hub.info = Info(False, [File(".gitattributes")])
    upload.check(REPOSITORY)
    hub.info = Info(False, [File(".gitattributes"), File("config.json")])
    with pytest.raises(ConfigError, match=r"holds 1 file\(s\), such as config.json"):
        upload.check(REPOSITORY)
    upload.check(REPOSITORY, overwrite=True)
    with pytest.raises(ConfigError, match="the repository is public already"):
        upload.check(REPOSITORY, private=True, overwrite=True)


def test_an_upload_that_fails_keeps_the_export(hub: Hub, tmp_path: Path) -> None:
    hub.errors["upload_folder"] = TimeoutError("slow")
    with pytest.raises(DataError, match=f"hf upload {REPOSITORY} {tmp_path}"):
        upload.upload(tmp_path, REPOSITORY)
