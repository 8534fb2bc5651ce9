"""Tasks and languages of XTREME and XTREME-R, and averages over them.

XTREME: Hu et al. 2020 (arXiv 2003.11080). XTREME-R: Ruder et al. 2021 (arXiv 2104.07412). The mean
over languages is the score of a task, where a QA task counts (EM + F1) / 2; the mean over tasks is
the score of a system.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

Mode: TypeAlias = Literal["official", "corrected"]
MODES: tuple[Mode, ...] = ("official", "corrected")

Scores: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Task -> language -> metric -> percentage."""

KINDS = {
    "pawsx": "labels",
    "xnli": "labels",
    "xcopa": "choices",
    "udpos": "tags",
    "panx": "tags",
    "xquad": "answers",
    "mlqa": "answers",
    "tydiqa": "answers",
    "bucc2018": "pairs",
    "tatoeba": "indices",
    "mewslix": "rankings",
    "lareqa": "rankings",
}
"""What the files of a task hold."""

SUFFIXES = {"answers": "json", "rankings": "json", "choices": "jsonl"}
"""Suffixes of files by their kind; tsv for the others."""

UNPUBLISHED = ("lareqa",)
"""Tasks of which the published script has no scores."""

_ALIASES = {
    "bucc": "bucc2018",
    "mewsli": "mewslix",
    "pos": "udpos",
    "tydiqagoldp": "tydiqa",
    "wikiann": "panx",
    "wikiannner": "panx",
    "xquadr": "lareqa",
}


def _languages(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {task: tuple(codes.split()) for task, codes in table.items()}


_XTREME = _languages(
    {
        "pawsx": "de en es fr ja ko zh",
        "xnli": "ar bg de el en es fr hi ru sw th tr ur vi zh",
        "panx": "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru "
        "ja ka ko th sw yo my zh kk tr et fi hu",
        "udpos": "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th "
        "tl tr ur vi yo zh",
        "bucc2018": "de fr ru zh",
        "tatoeba": "ar he vi id jv tl eu ml ta te af nl de el bn hi mr ur fa fr it pt es bg ru ja "
        "ka ko th sw zh kk tr et fi hu",
        "xquad": "en es de el ru tr ar vi th zh hi",
        "mlqa": "en es de ar hi vi zh",
        "tydiqa": "en ar bn fi id ko ru sw te",
    }
)
_XTREME_R = {
    "xnli": _XTREME["xnli"],
    **_languages({"xcopa": "et ht id it qu sw ta th tr vi zh"}),
    "udpos": (*_XTREME["udpos"], "lt", "pl", "uk", "wo", "ro"),
    "panx": (*_XTREME["panx"], "qu", "pl", "uk", "az", "lt", "pa", "gu", "ro"),
    "xquad": (*_XTREME["xquad"], "ro"),
    "mlqa": _XTREME["mlqa"],
    "tydiqa": _XTREME["tydiqa"],
    "tatoeba": (*_XTREME["tatoeba"], "az", "lt", "pl", "uk", "ro"),
    **_languages(
        {
            "mewslix": "ar de en es fa ja pl ro ta tr uk",
            "lareqa": "ar de el en es hi ru th tr vi zh",
        }
    ),
}
BENCHMARKS = {"xtreme": _XTREME, "xtreme-r": _XTREME_R}
"""Benchmark -> task -> languages, in the order of the published script."""

LANGUAGES = {
    task: tuple(dict.fromkeys((*_XTREME.get(task, ()), *_XTREME_R.get(task, ())))) for task in KINDS
}
"""Task -> languages of either benchmark."""

_GROUPS = {
    "xtreme": {
        "classification": ("pawsx", "xnli"),
        "tagging": ("udpos", "panx"),
        "qa": ("xquad", "mlqa", "tydiqa"),
        "retrieval": ("bucc2018", "tatoeba"),
    },
    "xtreme-r": {
        "classification": ("xnli", "xcopa"),
        "tagging": ("udpos", "panx"),
        "qa": ("xquad", "mlqa", "tydiqa"),
        "retrieval": ("tatoeba", "mewslix", "lareqa"),
    },
}
# The published script has XCOPA in two groups, and LAReQA in none.
_OFFICIAL_GROUPS = {
    "xtreme": _GROUPS["xtreme"],
    "xtreme-r": _GROUPS["xtreme-r"]
    | {"retrieval": ("tatoeba", "mewslix"), "multi_choice": ("xcopa",)},
}


def task_named(name: str) -> str | None:
    """Return the task that a folder's name stands for, such as `PAWS-X`; None for others."""
    plain = re.sub("[^a-z0-9]", "", name.lower())
    return plain if plain in KINDS else _ALIASES.get(plain)


def file_name(task: str, language: str) -> str:
    """Return the name of a file, from the folder of a submission on, for the published script."""
    return f"{task}/test-{language}.{SUFFIXES.get(KINDS[task], 'tsv')}"


def total(values: Iterable[float]) -> float:
    """Return the sum from left to right, rounded after each term.

    The `sum` of Python 3.12 and newer is more precise: its last digit differs from that of the
    published scores.
    """
    return functools.reduce(operator.add, values, 0.0)


def averages(benchmark: str, mode: Mode, scores: Scores) -> dict[str, Any]:
    """Return scores and their means in the layout of the published script's output.

    `all_task` is the mean over tasks, and each group has its own. They are given if every language
    of every task has a score. With `official`, the same holds for a task's mean over languages;
    with `corrected`, it is over the languages that have scores.

    Args:
      benchmark: Key of `BENCHMARKS`.
      mode: What the scores are. XTREME-R has no `all_task` with `official`, as the script has no
        languages for LAReQA.
      scores: All scores; those of other tasks and languages are ignored.

    Returns:
      Means over tasks, then task -> metric -> language -> score, `avg_` and the metric -> the mean,
      and `avg_metric` -> the mean that counts.
    """
    tasks: dict[str, dict[str, Any]] = {}
    complete: dict[str, float] = {}
    for task, languages in BENCHMARKS[benchmark].items():
        present = [code for code in languages if code in scores.get(task, {})]
        if not present:
            continue
        metrics = list(scores[task][present[0]])
        tasks[task] = {m: {code: scores[task][code][m] for code in present} for m in metrics}
        if mode == "official" and len(present) < len(languages):
            continue
        means = {m: total(tasks[task][m].values()) / len(present) for m in metrics}
        counted = means[metrics[0]]
        if KINDS[task] == "answers":
            counted = (means["exact_match"] + means["f1"]) / 2
        tasks[task] |= {f"avg_{metric}": mean for metric, mean in means.items()}
        tasks[task]["avg_metric"] = counted
        if len(present) == len(languages):
            complete[task] = counted
    groups = (_GROUPS if mode == "corrected" else _OFFICIAL_GROUPS)[benchmark]
    means = {
        name: total(complete[task] for task in members) / len(members)
        for name, members in {"all_task": tuple(BENCHMARKS[benchmark]), **groups}.items()
        if complete.keys() >= set(members)
    }
    return means | tasks
