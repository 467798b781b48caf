"""A network as a file for a device: pixels in, embedding out, checked against the network it came from.

``network.py`` says what the file computes, ``to_FORMAT.py`` writes and runs one kind of file, ``parity.py`` compares it
with the network, ``int8.py`` and ``quantise.py`` make it small, ``exporter.py`` does one after the other.
"""

from __future__ import annotations

import pkgutil

# Every file to_FORMAT.py offers SUFFIX, BESIDE (endings of what else it writes), NEEDS (what it imports beyond torch),
# LARGEST_BATCH, write and open_file.
FORMATS = tuple(
    sorted(m.name.removeprefix("to_") for m in pkgutil.iter_modules(__path__) if m.name.startswith("to_"))
)
