"""Nested dicts of arrays, and the names of their leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

Params = dict[str, Any]
"""Parameters as nested dicts of arrays or `ShapeDtypeStruct`."""


def path_name(path: Any) -> str:
    """Return a JAX key path as text, such as `encoder/layers/0/attention/query/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by the names of their paths."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def map_names(function: Callable[[str], Any], tree: Any) -> Any:
    """Return a tree of the same structure with `function` of each leaf's name."""
    return jax.tree.map_with_path(lambda path, _: function(path_name(path)), tree)
