"""The comparison of dual encoders: its statistics and section, and the scores of the peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.lareqa import compared, section
from flaxfer.data.examples import Examples
from flaxfer.tasks import TASK_TYPES
from flaxfer.tasks.rankings import average_precision


def test_differences_have_welchs_interval() -> None:
    found = compared([0.80, 0.82, 0.81], [0.70, 0.74, 0.72])
    # Variances of 1e-4 and 4e-4: 50 / 17 degrees of freedom by Welch and Satterthwaite.
    error, t = (5e-4 / 3) ** 0.5, stats.t(50 / 17)
    half = t.ppf(0.975) * error
    expected = {"difference": 0.09, "low": 0.09 - half, "high": 0.09 + half}
    assert found == pytest.approx(expected | {"p": 2 * t.sf(0.09 / error)})


def test_the_section_says_whether_scores_differ() -> None:
    own, peer = {"en": [0.5, 0.52], "de": [0.5, 0.51]}, {"en": [0.51, 0.53], "de": [0.2, 0.21]}
    page = section(
        {
            **{"model": "m", "dtype": "float32", "flaxfer": own, "torch": peer},
            "before": {"en": 0.4, "de": 0.1},
            "comparisons": {name: compared(own[name], peer[name]) for name in own},
            "versions": {"jax": "1"},
            "machine": {"cpu": "c", "cores": 2, "memory_gib": 8, "features": []},
        }
    )
    assert "| en | PyTorch | 0.4000 | 0.5100, 0.5300 | 0.5200 ± 0.0141 |" in page
    assert "en: flaxfer minus PyTorch -0.0100" in page and "-0.0100, 95 % interval" in page
    verdicts = [part.split(".")[0] for part in page.split("they ")[1:]]
    assert verdicts == ["do not differ beyond their spread", "differ"]


@pytest.mark.parity
@pytest.mark.filterwarnings("default")
def test_the_peer_scores_rankings_as_flaxfer() -> None:
    torch = pytest.importorskip("torch", reason="the peer needs PyTorch (make bench-setup)")
    from benchmarks import peer_lareqa

    rng = np.random.default_rng(0)
    queries = tuple(f"query {i}" for i in range(40))
    passages = [f"passage {i}" for i in range(60)]
    vector = {text: rng.normal(size=8).astype(np.float32) for text in (*queries, *passages)}

    class Stub:
        def eval(self) -> None: ...

        def __call__(self, texts: Sequence[str]) -> Any:
            return torch.from_numpy(np.stack([vector[text] for text in texts]))

    drawn = [rng.permutation(passages).tolist() for _ in queries]
    none = ("",) * len(queries)
    examples = Examples(
        TASK_TYPES["retrieval"],
        queries,
        tuple(one for one, *_ in drawn),
        tuple((tuple(rest[: i % 25]), tuple(rest[25:30])) for i, (_, *rest) in enumerate(drawn)),
        none, none, none,
    )  # fmt: skip
    expected = []
    for query, first, (others, _) in zip(
        queries, examples.text_b or (), examples.label, strict=True
    ):
        ranking = sorted(passages, key=lambda text: -float(vector[query] @ vector[text]))
        expected.append(average_precision({first, *others}, ranking, 20))
    assert peer_lareqa.score(Stub(), examples) == pytest.approx(np.mean(expected))  # type: ignore[arg-type]
    batches = [*islice(peer_lareqa.batch_numbers(10, 4, 0), 5)]
    assert Counter(i for batch in batches for i in batch) == Counter([*range(10)] * 2)
