"""The kind of CPU by literal flags, and the choices for each kind."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from flaxfer.runtime import cpu, host

# Excerpts of real lists: the flags that tell kinds apart, and some that must not matter.
ZEN_3 = "fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 avx f16c avx2 bmi2 sha_ni vaes vpclmulqdq"
SKYLAKE = "sse2 fma avx avx2 avx512f avx512dq avx512cd avx512bw avx512vl"
ZEN_4 = f"{SKYLAKE} avx512_bf16 avx512_vnni avx512_bitalg"
SAPPHIRE_RAPIDS = f"{ZEN_4} avx512_fp16 amx_bf16 amx_tile amx_int8"
GRAVITON_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop"
GRAVITON_3 = f"{GRAVITON_2} sve svei8mm svebf16 i8mm bf16"
WIDE = {"xla_cpu_prefer_vector_width": 512}
M2 = """hw.optional.arm.FEAT_AES: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.arm.AdvSIMD: 1
"""


@pytest.mark.parametrize(
    ("flags", "machine", "name", "dtypes", "options"),
    [
        ("sse2 avx", "x86_64", "x86-64", ("float32", "float32"), {}),
        ("", "x86_64", "x86-64", ("float32", "float32"), {}),
        (ZEN_3, "x86_64", "AVX2", ("float32", "float32"), {}),
        (ZEN_3, "AMD64", "AVX2", ("float32", "float32"), {}),
        (SKYLAKE, "x86_64", "AVX-512", ("float32", "float32"), {}),
        (ZEN_4, "x86_64", "AVX-512 BF16", ("float32", "bfloat16"), WIDE),
        (SAPPHIRE_RAPIDS, "x86_64", "AMX", ("float32", "bfloat16"), WIDE),
        (GRAVITON_2, "aarch64", "NEON", ("float32", "float32"), {}),
        (GRAVITON_3, "aarch64", "NEON with BF16", ("float32", "float32"), {}),
        ("", "arm64", "NEON", ("float32", "float32"), {}),
        ("advsimd bf16", "arm64", "NEON with BF16", ("float32", "float32"), {}),
        (ZEN_4, "riscv64", "other", ("float32", "float32"), {}),
    ],
)
def test_the_kind_and_its_choices_follow_from_flags_and_architecture(
    flags: str, machine: str, name: str, dtypes: tuple[str, str], options: dict[str, int]
) -> None:
    kind = cpu.cpu_kind(frozenset(flags.split()), machine)
    assert kind.name == name
    assert (kind.dtype((0, 10, 2)), kind.dtype((0, 12, 0))) == dtypes
    assert kind.dtype((0, 13, 1)) == kind.dtype((1, 0, 0)) == dtypes[1]
    assert kind.compiler_options == options


@pytest.mark.parametrize("kind", [*cpu.X86, *cpu.ARM, cpu.OTHER], ids=str)
def test_a_kind_that_was_not_measured_says_so_and_keeps_the_defaults(kind: cpu.CpuKind) -> None:
    if kind.measured:
        assert "jaxlib 0." in kind.measured and str(kind) == kind.name
    else:
        assert str(kind) == f"{kind.name} (not measured)"
        assert kind == cpu.CpuKind(kind.name, flag=kind.flag)


def test_this_cpu_is_of_the_kind_that_its_flags_say() -> None:
    assert cpu.this_cpu() == cpu.cpu_kind(host.cpu_flags(), platform.machine())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nflags\t\t: avx avx2\n\nprocessor\t: 1\nflags\t\t: avx\n",
            {"avx", "avx2"},
        ),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n", {"fp", "asimd", "bf16"}),
        ("", set[str]()),
    ],
    ids=["x86", "arm", "unlisted"],
)
def test_the_flags_are_those_of_the_first_cpu(
    text: str, expected: set[str], tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert host.cpu_flags(tmp_path / "cpuinfo") == expected


def test_the_flags_of_a_mac_have_linux_names() -> None:
    flags = host.parse_apple_flags(M2)
    assert flags == {"aes", "bf16", "advsimd"}
    assert cpu.cpu_kind(flags, "arm64").name == "NEON with BF16"
    assert host.parse_apple_flags("") == frozenset()
