"""The section of BENCHMARKS.md with the compiler's estimates for TPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.summary import Run, provenance, table
from flaxfer.aot import topology

SETTING = ("model", "chip", "batch", "length", "dtype")
"""Keys that must be equal in two estimates to compare them."""


def section(records: Sequence[Run]) -> str:
    """Return the estimates: full rows on one chip, packed rows, many chips."""
    reports = [record for record in records if "shapes" in record]
    peers = [record for record in records if "shapes" not in record]
    many = [record for record in reports if record["topology"]["chips"] > 1]
    one = [record for record in reports if record not in many]
    packed = [record for record in one if record["shapes"]["bucket_sizes"]]
    full = [estimate(record) for record in one if record not in packed]
    text = (
        "## TPU ESTIMATES\nNothing here ran on a TPU. The TPU compiler compiled each train step "
        "(AdamW, dropout) for one chip, and its estimates of the cycles of all instructions are "
        "summed. It has no estimates for gathers, random bits and waits for memory, so they are "
        "left out. Every token slot holds a token, so these figures do not show what packing "
        f"saves. Versions for flaxfer: {provenance(reports)}"
    )
    if peers:
        text += (
            f" Versions for the peer: {provenance(peers)} Ratios include any difference between "
            "their versions of libtpu."
        )
    text += f"\n\n{full_rows([*full, *peers])}"
    if packed:
        text += f"\n{packed_rows(packed, peers)}"
    return text + (f"\n{many_chips(many)}" if many else "")


def full_rows(estimates: Sequence[Run]) -> str:
    """Return the table of steps without padding; of equal records, the last one counts."""
    last = {(*(str(e[key]) for key in SETTING), e["side"], e["vocabulary"]): e for e in estimates}
    peers = {key[:-2]: e for key, e in last.items() if e["side"] != "flaxfer"}
    rows = []
    for key, e in sorted(last.items()):
        peer = peers.get(key[:-2]) if e["side"] == "flaxfer" else None
        ratio = f"{peer['estimated_cycles'] / e['estimated_cycles']:.2f}" if peer else ""
        rows.append([*_step(e), e["dtype"], e["side"], _millions(e["estimated_cycles"]), ratio])
    columns = ["model", "chip", "rows x tokens", "type", "trainer", "million cycles"]
    return table([*columns, "peer / flaxfer"], rows)


def packed_rows(records: Sequence[Run], peers: Sequence[Run]) -> str:
    """Compare the cycles per example of packed rows with a peer that pads every example."""
    rows = []
    for record in records:
        step = estimate(record)
        examples, tokens = record["shapes"]["batch_size"], record["useful_per_step"]["tokens"]
        cost = step["estimated_cycles"] / examples
        alike = [e for e in peers if all(e[k] == step[k] for k in SETTING if k != "batch")]
        model, chip, size = _step(step)
        rows.append(
            [
                *(model, chip, str(examples), size),
                f"{1 - tokens / (step['batch'] * step['length']):.1%}",
                _millions(step["estimated_cycles"]),
                f"{cost / 1e3:,.0f}",
                ", ".join(f"{e['estimated_cycles'] / e['batch'] / cost:.1f}" for e in alike),
            ]
        )
    text = (
        "### STS-B English in packed rows\nThe same estimates with the lengths and the vocabulary "
        "of real data. The step has the largest bucket size; most steps have fewer rows. The peer "
        "pads every example to the length of a row: its cycles per example are those of the table "
        "above over its batch.\n\n"
    )
    columns = ["model", "chip", "examples", "rows x tokens", "padding", "million cycles"]
    return text + table([*columns, "thousand per example", "peer / flaxfer per example"], rows)


def many_chips(records: Sequence[Run]) -> str:
    """Return the share of a step that waits for other chips."""
    rows = []
    for record in records:
        model, _, size = _step(estimate(record))
        rows.append(
            [
                model,
                record["topology"]["name"],
                " x ".join(f"{axis} {n}" for axis, n in record["mesh"].items() if n > 1),
                size,
                _millions(record["estimated_cycles"]),
                f"{record['collectives_not_hidden_share']:.1%}",
                f"{record['examples_per_s_estimate']:,.0f}",
            ]
        )
    text = (
        "### Many chips\nCycles of all sources: the compiler's; gathers and waits for memory by "
        "their bytes; and collectives, which the compiler does not estimate, as rings by their "
        "bytes, unless other work hides them.\n\n"
    )
    columns = ["model", "chips", "mesh", "rows a chip x tokens", "million cycles"]
    return text + table([*columns, "in collectives not hidden", "examples/s"], rows)


def profile(record: Run, variants: Mapping[str, Run]) -> str:
    """Return the cycles of a step by part, with lower bounds and with other settings."""
    step, target = estimate(record), record["topology"]
    parts: dict[str, dict[str, int]] = {}
    for entry in record["parts"]:
        cycles = parts.setdefault(entry["part"], dict.fromkeys(("forward", "backward", ""), 0))
        cycles[entry["direction"]] += entry["cycles"]
    sums = {part: sum(cycles.values()) for part, cycles in parts.items()}
    total, least = record["estimated_cycles"], least_cycles(record)
    rows = [
        [
            part,
            *(_millions(n) if n else "" for n in parts[part].values()),
            f"{sums[part] / total:.1%}",
            _millions(least[part]) if part in least else "",
        ]
        for part in sorted(parts, key=lambda part: -sums[part])
    ]
    matmuls = record["model_flops"]["all_tokens"] / target["peak_flops"]
    text = (
        f"### Where the cycles go: {step['model']}, {step['batch']} x {step['length']}\nMillions "
        f"of cycles of one step on {target['chip']}, of all sources: {_millions(total)}, "
        f"{_millions(record['cycles_by_source']['modelled'])} of them by a model of bytes. Its "
        "matmuls alone at the published peak: "
        f"{_millions(matmuls * target['clock_hz_estimate'])}. Lower bounds: matmuls at this peak; "
        "AdamW's seven arrays, and the operands of attention as one kernel, at the published "
        "bandwidth.\n\n"
    )
    text += table(["part", "forward", "backward", "neither", "share", "lower bound"], rows)
    text += "\nCycles left if parts reached their lower bounds, largest saving first:\n\n"
    above = {part: sums[part] - least[part] for part in least.keys() & parts}
    rows = []
    for part, saving in sorted(above.items(), key=lambda item: -item[1]):
        total -= saving
        rows.append([part, _millions(saving), _millions(total)])
    text += table(["part", "above its lower bound", "left of the step"], rows)
    if variants:
        rows = [
            [
                name,
                *(_millions(entry["cycles_by_source"][key]) for key in ("compiler", "modelled")),
                _millions(entry["estimated_cycles"]),
                f"{entry['peak_bytes'] / 2**30:.2f}",
            ]
            for name, entry in {"as above": record, **variants}.items()
        ]
        columns = ["setting", "the compiler's", "by a model", "million cycles", "peak GiB"]
        text += f"\nThe same with other settings:\n\n{table(columns, rows)}"
    return text


def estimate(record: Run) -> Run:
    """Return an estimate of `flaxfer aot` in the form of `benchmarks.peer_flax`.

    Rows are those of one chip; cycles are the compiler's alone, like the peer's.
    """
    shapes, target = record["shapes"], record["topology"]
    encoder = shapes["encoder"]
    size = (encoder["num_layers"], encoder["hidden_size"])
    micro, rows, length = shapes["train"]["token_BT"]
    return {
        "side": "flaxfer",
        "model": f"{encoder['family']}-" + ("base" if size == (12, 768) else "{}x{}".format(*size)),
        "vocabulary": shapes["vocabulary_in_use"],
        "chip": target["name"].partition(":")[0],
        "batch": micro * rows // target["chips"],
        "length": length,
        "dtype": shapes["compute_dtype"],
        "estimated_cycles": record["cycles_by_source"]["compiler"],
    }


def least_cycles(record: Run) -> dict[str, float]:
    """Return the least cycles that parts of a BERT or RoBERTa train step need on one chip.

    For a report of `flaxfer aot`. Matmuls run at the published peak, forward once and backward
    twice; the last layer has only CLS tokens as queries. Attention is one kernel that reads and
    writes its bfloat16 operands once at the published bandwidth: four arrays forward, eight
    backward (in the last layer, only keys, values and their gradients). AdamW reads four float32
    arrays and writes three.
    """
    target, work = record["topology"], record["useful_per_step"]
    layers, width, inner = (
        record["shapes"]["encoder"][name]
        for name in ("num_layers", "hidden_size", "intermediate_size")
    )
    tokens, share = work["tokens"], work["sequences"] / work["tokens"]
    queries = (layers - 1 + share) * tokens
    forward_flops = {
        "feed_forward": 4 * width * inner * queries,
        "attention projections": 4 * width**2 * (queries + layers * tokens),
        "attention": 4 * width * work["pairs"] * (layers - 1 + share),
        "optimizer": 0.0,
    }
    bytes_moved = {
        "attention": 2 * width * tokens * (12 * (layers - 1) + 6),
        "optimizer": 28 * record["bytes"]["parameters"] / 4,
    }
    bandwidth = topology.parse(target["name"]).chip.bandwidth
    return {
        part: target["clock_hz_estimate"]
        * max(3 * flops / target["peak_flops"], bytes_moved.get(part, 0) / bandwidth)
        for part, flops in forward_flops.items()
    }


def _step(estimate: Run) -> list[str]:
    """Return the cells that name a step: model, chip and shape."""
    return [
        f"{estimate['model']}, {estimate['vocabulary']:,} tokens",
        estimate["chip"],
        f"{estimate['batch']} x {estimate['length']}",
    ]


def _millions(cycles: float) -> str:
    return f"{cycles / 1e6:.1f}"
