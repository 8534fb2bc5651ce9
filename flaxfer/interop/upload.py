"""Upload of an exported folder to the Hugging Face hub."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from flaxfer.errors import ConfigError, DataError

LOG_IN = (
    "run `hf auth login`, or set HF_TOKEN to a token with write access, which "
    "https://huggingface.co/settings/tokens makes."
)


def check(repository: str, *, private: bool = False, overwrite: bool = False) -> None:
    """Check, before anything is exported, that a folder can be uploaded.

    Args:
      repository: Id of a model on the hub, such as `me/my-model`.
      private: Whether the repository is to be private.
      overwrite: Whether the repository may hold files, which the upload replaces.

    Raises:
      ConfigError: The id is wrong, nobody is logged in, or the repository is in use.
      DataError: The hub does not answer.
    """
    check_id(repository, "--push-to-hub")
    api = huggingface_hub.HfApi()
    with _explained(repository):
        api.whoami()
        try:
            info = api.model_info(repository)
        except RepositoryNotFoundError:
            return
    files = [file.rfilename for file in info.siblings or () if file.rfilename != ".gitattributes"]
    if files and not overwrite:
        raise ConfigError(
            f"the repository holds {len(files)} file(s), such as {files[0]}",
            where=repository,
            hint="name a new repository; --overwrite replaces the files, which its history keeps.",
        )
    if private and not info.private:
        raise ConfigError(
            "the repository is public already",
            where=repository,
            hint="leave out --private, make it private in its settings, or name a new one.",
        )


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Upload a folder in place of what a repository holds, and return the repository's address.

    The repository is created if there is none.

    Raises:
      ConfigError, DataError: As `check`.
    """
    api = huggingface_hub.HfApi()
    later = shlex.join(["hf", "upload", repository, str(folder)])
    with _explained(repository, f" The export is complete: `{later}` uploads it."):
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            folder_path=folder,
            commit_message="Upload a model exported by flaxfer",
            delete_patterns="*",
        )
    return str(url)


def check_id(repository: str, option: str) -> None:
    """Check that a text can be the id of a repository.

    Raises:
      ConfigError: It cannot.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repository)
    except HFValidationError as error:
        what = f"{repository!r} is no id of the hub: {error}"
        raise ConfigError(what, where=option, hint="write OWNER/NAME.") from error


@contextlib.contextmanager
def _explained(repository: str, more: str = "") -> Iterator[None]:
    """Turn errors of the hub's client into those of this package."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        what = "nobody is logged in to the Hugging Face hub"
        raise ConfigError(what, where=repository, hint=LOG_IN + more) from error
    except OfflineModeIsEnabled as error:
        what, hint = "HF_HUB_OFFLINE forbids requests", "unset HF_HUB_OFFLINE."
        raise ConfigError(what, where=repository, hint=hint + more) from error
    # The client and its network library raise many types.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        if status in (401, 403):
            what = "the token is not valid" if status == 401 else "the token may not write there"
            raise ConfigError(f"{what}: {reason}", where=repository, hint=LOG_IN + more) from error
        raise DataError(
            f"the hub does not take the upload: {reason}",
            where=repository,
            hint="check the id and the network, and try again." + more,
        ) from error
