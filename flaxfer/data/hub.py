"""Data sets on the Hugging Face hub, which is contacted only if the config has a hub id."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping

from flaxfer.config import Source
from flaxfer.data.tables import Column, Key, Table, listed, locate
from flaxfer.errors import DataError
from flaxfer.runtime.hub import reach

PARQUET = "refs/convert/parquet"
"""Branch with the hub's conversion to parquet: a folder per subset, without a list of subsets."""

_FILES = "or download the files and set `path` instead of `hub`."

_FAILURES: Mapping[str, tuple[str, str]] = {
    "scripts are no longer supported|trust_remote_code|contains custom code": (
        "the data set is a loading script, which is not run",
        f"set revision={PARQUET!r}, where the hub keeps most data sets as parquet; the subset is "
        f"often 'default' there; {_FILES}",
    ),
    "is a gated dataset": (
        "the data set is gated",
        "accept its terms on https://huggingface.co/datasets/{hub}, and log in (hf auth login) or "
        f"set HF_TOKEN; {_FILES}",
    ),
    r"Config name is missing.*?configs: (\[.*?\])": (
        "the data set has several subsets",
        "set subset to one of {choices}.",
    ),
    r"BuilderConfig .*? not found\. Available: (\[.*\])": (
        "there is no subset {subset!r}",
        "set subset to one of {choices}.",
    ),
    r"Unknown split .*? Should be one of (\[.*\])": (
        "there is no split {split!r}",
        "set split to one of {choices}.",
    ),
    r"Revision '.*?' doesn't exist": (
        "there is no revision {revision!r}",
        "set revision to a branch, a tag or a commit of the data set; 'main' is the usual one.",
    ),
    "doesn't exist on the Hub or cannot be accessed": (
        "there is no such data set, or it is private",
        "check `hub`; for a private one, log in (hf auth login) or set HF_TOKEN.",
    ),
    "OfflineMode|Couldn't reach|Couldn't find cache|outgoing traffic has been disabled": (
        "the hub cannot be reached, and the data set has not been downloaded before",
        f"check the network, unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, {_FILES}",
    ),
    "[mM]anual download|manual_dir": (
        "the data set has to be downloaded by hand",
        "download the files as its page says, and set `path` instead of `hub`.",
    ),
}
"""What the texts of the library's errors mean, by a pattern of each; a group lists choices."""


def _explained(error: Exception, source: Source) -> tuple[str, str]:
    """Return what an error of the library means, and a hint."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for pattern, (what, hint) in _FAILURES.items():
        if not (match := re.search(pattern, text)):
            continue
        choices = ""
        if match.groups():
            names = re.findall(r"'([^']*)'", match[1])
            wanted = source.subset if "subset" in what else source.split
            choices = listed(names, difflib.get_close_matches(wanted, names))
        if pattern.startswith("scripts") and source.revision == PARQUET:
            hint = "download the files and set `path` instead of `hub`."
        values = dataclasses.asdict(source) | {"choices": choices}
        return what.format(**values), hint.format(**values)
    hint = "check hub, subset, split and revision and the network, "
    return f"the hub's data set cannot be loaded: {text}", hint + _FILES


def read_hub(source: Source, keys: Iterable[Key]) -> Table:
    """Read columns of a data set on the hub; the values of class labels are their names.

    Raises:
      DataError: If the hub cannot be reached, or does not have the data set, split or a column.
    """
    import datasets

    reach(source.hub, "dataset", source.revision)
    name = f"{source.hub}[{source.split}]"
    try:
        subset = {"name": source.subset or None}
        if source.revision == PARQUET:
            # Without a folder, all subsets would be read as one.
            subset = {"data_dir": source.subset or "default"}
        loaded = datasets.load_dataset(
            source.hub, split=source.split, revision=source.revision, **subset
        )
    # The library raises many types of its own and of its network client; their texts differ.
    except Exception as error:
        what, hint = _explained(error, source)
        raise DataError(what, where=name, hint=hint) from error
    column_index = locate(keys, loaded.column_names, name)
    table = loaded.with_format("arrow")[:]
    columns: dict[Key, Column] = {}
    for key, index in column_index.items():
        column = loaded.column_names[index]
        values = table[column].to_pylist()
        feature = loaded.features[column]
        item = getattr(feature, "feature", feature)  # The items of a list.
        if isinstance(item, datasets.ClassLabel):
            classes = dict(enumerate(item.names))
            values = [
                [classes.get(tag, tag) for tag in value]
                if isinstance(value, list)
                else classes.get(value, value)
                for value in values
            ]
        columns[key] = Column(name, repr(column), values, None)
    return Table(len(loaded), columns, [])
