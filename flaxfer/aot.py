"""Whether a config fits a named accelerator, and how fast it would be there, without having it.

python -m flaxfer.aot --config FILE[:PRESET] --topology NAME
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxfer import config, config_build
from flaxfer.checkpoint import write_atomically
from flaxfer.errors import ConfigError, FlaxferError
from flaxfer.progress import say, table

if TYPE_CHECKING:
    from flaxfer.compiled.programs import Workload

