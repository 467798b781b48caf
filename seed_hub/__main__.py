"""``python -m seed_hub``: the command ``seed-hub``, where its script is not on the PATH."""

import sys

from seed_hub.cli import main

sys.exit(main())
