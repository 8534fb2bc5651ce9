"""Names of topologies, and the error without their compiler."""

from __future__ import annotations

import importlib.util

import pytest

from flaxfer.aot import topology
from flaxfer.errors import ConfigError, UnavailableError
from flaxfer.runtime.host import install_hint


@pytest.mark.parametrize(
    ("name", "known", "chips"),
    [
        ("v5e:1", "v5e:1x1", 1),
        ("v5e:8", "v5e:2x4", 8),
        ("V5E:4x4", "v5e:4x4", 16),
        ("v6e:256", "v6e:16x16", 256),
        ("v5p:4", "v5p:2x2x1", 4),
        ("v5p:2x2x2", "v5p:2x2x2", 8),
        ("v5p:256", "v5p:4x8x8", 256),
        ("h100:8", "h100:8", 8),
    ],
)
def test_names_are_completed(name: str, known: str, chips: int) -> None:
    parsed = topology.parse(name)
    assert (parsed.name, parsed.chips, parsed.kind) == (known, chips, known.split(":")[0])


@pytest.mark.parametrize("name", ["v5e", "v5e:3", "v5e:2x2x1", "v5p:4x4", "h100:3", "a100:1", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        topology.parse(name)
    assert f"no topology {name!r}" in str(caught.value)
    assert "v5p: 1x1x1, 1x1x2, 2x2x1" in str(caught.value) and "h100: 1, 2, 4, 8" in str(
        caught.value
    )


def test_sides_and_memory() -> None:
    assert [topology.parse(x).side for x in ("v5e:1", "v5e:2x4", "v5p:4x4x8")] == [1, 4, 8]
    sold = {kind: round(chip.memory / 2**30) for kind, chip in topology.CHIPS.items()}
    assert sold == {"v5e": 16, "v5p": 95, "v6e": 32, "h100": 79}
    assert all(chip.usable <= chip.memory for chip in topology.CHIPS.values())


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("v5e:4", "libtpu", "tpu"),
        ("h100:1", "jax_cuda12_plugin", "cuda"),
    ],
)
def test_a_missing_compiler_is_reported(name: str, package: str, extra: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(UnavailableError) as caught:
        topology.devices(topology.parse(name))
    assert f"{package}, which contains the compiler, is not installed" in str(caught.value)
    assert install_hint(extra) in str(caught.value)
