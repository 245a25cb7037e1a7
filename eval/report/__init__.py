"""mcl-report, and the pages that people read."""

from eval.report.command import main, write_report

__all__ = ["main", "write_report"]
