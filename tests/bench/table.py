"""The table that a run ends with."""

import statistics

HEAD = ["what", "pgfleet", "beside", "takes", "ratio", "budget", ""]


def spread(values, unit):
    """Median, and the range where there are several."""
    middle = statistics.median(values)
    text = number(middle, unit)
    if len(values) > 1:
        text += f" ({number(min(values), '')}–{number(max(values), '')})"
    return text


def number(value, unit):
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{text} {unit}".strip()


class Table:
    def __init__(self):
        self.rows = []
        self.missed = []

    def row(self, what, own, unit, beside=None, reference=None, budget=None, limit=None, by_ratio=False):
        """`limit` bounds the median of `own`, or its ratio to the reference's."""
        middle = statistics.median(own)
        ratio = middle / statistics.median(reference) if reference else None
        verdict = ""
        if limit is not None:
            met = (ratio if by_ratio else middle) <= limit
            verdict = "met" if met else "MISSED"
            if not met:
                self.missed.append(f"{what}: {spread(own, unit)}, the budget is {budget}")
        self.rows.append([
            what, spread(own, unit), beside or "", spread(reference, unit) if reference else "",
            f"{ratio:.2f}×" if ratio is not None else "", budget or "", verdict,
        ])

    def more(self, beside, reference, own, unit):
        """A further reference of the row above."""
        ratio = statistics.median(own) / statistics.median(reference)
        self.rows.append(["", "", beside, spread(reference, unit), f"{ratio:.2f}×", "", ""])

    def render(self):
        lines = [HEAD, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
        rule = ["─" * width for width in widths]
        shown = [HEAD, rule, *self.rows]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in shown)
