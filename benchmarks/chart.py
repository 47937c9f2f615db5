"""Draws the rates of the last measurement as bars: `make chart`, after `make bench`.

It measures nothing: it reads `target/bench/last.json` and writes an SVG.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from . import table

RESULTS = Path("target/bench/last.json")
CHART = Path("benchmarks/chart.svg")
ROWS = ("wide", "chain", "single", "many")


def main() -> int:
    """Draw the rows that are rates, one panel each, on a logarithmic scale."""
    if not RESULTS.exists():
        print(f"{RESULTS} is not there: run make bench first", file=sys.stderr)
        return 1
    last = json.loads(RESULTS.read_text())
    samples: table.Samples = last["samples"]
    mpl.rcParams["svg.hashsalt"] = "bide"  # the same measurement draws the same file
    figure, panels = plt.subplots(len(ROWS), 1, figsize=(9, 2.2 * len(ROWS)), layout="constrained")
    for panel, row in zip(panels, ROWS, strict=True):
        metric = table.METRICS[row][0]
        rates = {name: rate for name in samples if (rate := table.median(samples, name, metric.key)) is not None}
        colours = ["tab:blue" if name.startswith("bide") else "tab:gray" for name in rates]
        bars = panel.barh(list(rates), list(rates.values()), color=colours, log=True)
        panel.bar_label(bars, fmt="{:,.0f}", padding=3)
        panel.invert_yaxis()
        panel.margins(x=0.15)
        panel.set_title(f"{metric.title}, {metric.unit}", loc="left", fontsize="medium")
    figure.suptitle(last["machine"], fontsize="small")
    figure.savefig(CHART, metadata={"Date": None})
    print(CHART)
    return 0


if __name__ == "__main__":
    sys.exit(main())
