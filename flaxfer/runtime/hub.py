"""The first question to the Hugging Face hub. It is asked only when the config names a hub id."""

from __future__ import annotations

from typing import Literal

from flaxfer.errors import DataError

TIMEOUT = 4.0
"""Seconds to wait for the hub's answer."""


def reach(repository: str, kind: Literal["dataset", "model"], revision: str) -> None:
    """Asks the hub for a repository, so that a wrong name or no network is found out at once.

    The clients' own downloads try again for half a minute before they give up. With HF_HUB_OFFLINE
    set nothing is asked, and they take what they downloaded before.

    Raises:
      DataError: the hub does not answer, or has no such repository or revision.
    """
    import huggingface_hub
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.HfApi().repo_info(
            repository, repo_type=kind, revision=revision, timeout=TIMEOUT
        )
    # The client and its network library raise types of their own; all mean the same here.
    except Exception as error:
        raise DataError(
            f"the hub does not give this {kind}: {type(error).__name__}: {error}",
            where=f"{repository}@{revision}",
            hint="check the id, the revision and the network; set HF_HUB_OFFLINE=1 to use what was "
            "downloaded before; or download the files and set `path` instead of `hub`.",
        ) from error
