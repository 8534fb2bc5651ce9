"""Data sets on the Hugging Face hub, which is contacted only if the config has a hub id."""

from __future__ import annotations

from collections.abc import Iterable

from flaxfer.config import Source
from flaxfer.data.tables import Column, Key, Table, locate
from flaxfer.errors import DataError
from flaxfer.runtime.hub import reach

_PARQUET = "refs/convert/parquet"
"""Branch with the hub's conversion to parquet: a folder per subset, without a list of subsets."""


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
        if source.revision == _PARQUET:
            # Without a folder, all subsets would be read as one.
            subset = {"data_dir": source.subset or "default"}
        loaded = datasets.load_dataset(
            source.hub, split=source.split, revision=source.revision, **subset
        )
    # The library raises many types of its own and of its network client; all mean the same here.
    except Exception as error:
        raise DataError(
            f"the hub's data set cannot be loaded: {type(error).__name__}: {error}",
            where=name,
            hint="check hub, subset, split and revision and the network, or download the files "
            "and set `path` instead.",
        ) from error
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
