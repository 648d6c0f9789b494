"""The report: one self-contained page. Draws what it is given and computes nothing; loads no torch."""

from pellucid.reporting.report import LIMITS, Case, PerformanceRow, Picture, Report, Shortcut, ShortcutRow, TreeBlock

__all__ = ["LIMITS", "Case", "PerformanceRow", "Picture", "Report", "Shortcut", "ShortcutRow", "TreeBlock"]
