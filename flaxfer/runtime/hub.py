"""First request to the Hugging Face hub, for configs that name a hub id."""

from __future__ import annotations

from typing import Literal

from flaxfer.errors import DataError

TIMEOUT = 4.0
"""Seconds to wait for an answer."""


def reach(repository: str, kind: Literal["dataset", "model"], revision: str) -> None:
    """Look a repository up, so that a wrong name or a missing network is an error at once.

    Downloads retry for half a minute before they fail. With HF_HUB_OFFLINE there is no request;
    downloads then use the local cache.

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
    # The client and its network library raise many types; all mean the same here.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(
            f"the hub does not provide this {kind}: {reason}",
            where=f"{repository}@{revision}",
            hint="check the id, the revision and the network; set HF_HUB_OFFLINE=1 to use earlier "
            "downloads; or download the files and set `path` instead of `hub`.",
        ) from error
