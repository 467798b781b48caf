"""``python -m seed_hub.cli``: what ``accelerate launch -m`` needs."""

import sys

from seed_hub.cli import main

sys.exit(main())
