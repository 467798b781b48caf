"""One self-contained HTML page about a run: did it work, and would you trust its neighbours?"""

from seed_hub.report.page import write_report

__all__ = ["write_report"]
