"""Draw the last measurement as bars: `make chart`, after `make bench` or `make bench-peers`.

It only reads `target/bench/last.json` and writes an SVG. The same measurement
always gives the same file.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from . import table

RESULTS = Path("target/bench/last.json")
CHART = Path("benchmarks/chart.svg")
RATES = ("wide", "chain", "single", "many")
COSTS = ("gate_kb", "parked_kb")
BIDE, OTHERS = "#1f6fb4", "#a8a8a8"


def draw(panel: Axes, samples: table.Samples, metric: table.Metric, *, rate: bool) -> None:
    """Draw one metric, one bar per subject: rates on a logarithmic scale (longer is better), or costs (shorter is)."""
    values = {name: value for name in samples if (value := table.median(samples, name, metric.key)) is not None}
    colours = [BIDE if name.startswith("bide") else OTHERS for name in values]
    bars = panel.barh(list(values), list(values.values()), color=colours, log=rate)
    panel.bar_label(bars, fmt=f"{{:,.{metric.digits}f}}", padding=3, fontsize="small")
    panel.invert_yaxis()
    panel.margins(x=0.2)
    panel.tick_params(labelsize="small")
    panel.xaxis.set_visible(False)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    better = "longer is better, logarithmic" if rate else "shorter is better"
    panel.set_title(f"{metric.title}\n{metric.unit} ({better})", loc="left", fontsize="small")


def main() -> int:
    """Draw the rates and the memory of waits."""
    if not RESULTS.exists():
        print(f"{RESULTS} is not there: run make bench first", file=sys.stderr)
        return 1
    last = json.loads(RESULTS.read_text())
    samples: table.Samples = last["samples"]
    metrics = {metric.key: metric for row in table.METRICS.values() for metric in row}
    keys = [key for key in RATES + COSTS if any(key in of_subject for of_subject in samples.values())]
    mpl.rcParams |= {"svg.hashsalt": "bide", "svg.fonttype": "none"}  # always the same file, and a small one
    figure, panels = plt.subplots(-(-len(keys) // 2), 2, figsize=(11, 1.3 * len(keys)), squeeze=False)
    for panel, key in zip(panels.flat, keys, strict=False):
        draw(panel, samples, metrics[key], rate=key in RATES)
    for panel in panels.flat[len(keys) :]:
        panel.remove()
    figure.suptitle(f"{last['machine']}; medians of one run", fontsize="small")
    figure.tight_layout()
    figure.savefig(CHART, metadata={"Date": None, "Creator": None})
    print(CHART)
    return 0


if __name__ == "__main__":
    sys.exit(main())
