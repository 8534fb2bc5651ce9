"""Run the command line with `python -m flaxfer`."""

import sys

from flaxfer.main import main

sys.exit(main())
