#!/usr/bin/env python3
"""Draws the figures of `tributary eval --json FILE` (client/eval/README.md has the schema).

    tools/eval_figures.py FILE --out FOLDER [--format svg|png]

quality:   perplexity against dense, and needles found, over the share of remote KV that was read; one line per window
needles:   needle accuracy by length and depth, one panel per setting
retention: share of remote KV that each KV head of each layer read, one panel per setting that reports it

Prints the files it wrote. A figure without data is not drawn, and said so. Needs matplotlib (python3-matplotlib).
"""

import argparse
import json
import math
import pathlib
import sys

SCHEMA = "tributary.eval/1"
DEPTH_BINS = 5
MAX_PANELS = 12


class FigureError(Exception):
    """Something that the reader of the terminal must know."""


def load(path):
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FigureError(f"cannot read '{path}': {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise FigureError(f"'{path}' has the schema {found!r}; this tool draws '{SCHEMA}'")
    return data


def is_dense(setting):
    return setting["policy"] == "dense"


def parameters(setting):
    """The parameters that were given, for labels: "beta=1, alpha=0.5"."""
    names = ("beta", "alpha", "keep_min", "keep_next", "min_kept_mass")
    return ", ".join(f"{name}={setting[name]:g}" for name in names if setting.get(name) is not None)


def quality_lines(settings, measure):
    """{line label: [(remote read share, value, point label)]}, ascending; `measure` gives (share, value) or None."""
    lines = {}
    for setting in settings:
        point = measure(setting)
        if point is None:
            continue
        line = f"{setting['policy']}, window {setting['window_tokens']}"
        lines.setdefault(line, []).append((*point, parameters(setting)))
    return {line: sorted(points) for line, points in lines.items()}


def perplexity_point(setting):
    result = setting["perplexity"]
    if result is None or "perplexity_ratio" not in result:
        return None
    return result["remote_read_share"], 100 * (result["perplexity_ratio"] - 1)


def needle_point(setting):
    result = setting["needles"]
    if result is None or result["baseline_found"] == 0:
        return None
    return result["remote_read_share_mean"], 100 * result["found_where_baseline"] / result["baseline_found"]


def depth_bin(depth):
    return min(DEPTH_BINS - 1, int(depth * DEPTH_BINS))


def needle_grid(questions):
    """(lengths ascending, accuracy[depth bin][length], NaN where nothing was asked)."""
    lengths = sorted({q["length_tokens"] for q in questions})
    found = [[[] for _ in lengths] for _ in range(DEPTH_BINS)]
    for q in questions:
        found[depth_bin(q["depth"])][lengths.index(q["length_tokens"])].append(q["found"])
    return lengths, [[sum(cell) / len(cell) if cell else math.nan for cell in row] for row in found]


def title(setting):
    words = [setting["policy"], parameters(setting), f"window {setting['window_tokens']}"]
    return ", ".join(word for word in words if word)


def panels(plt, count):
    columns = min(4, count)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 3.2 * rows), squeeze=False)
    flat = [axis for row in axes for axis in row]
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def limited(settings, what):
    if len(settings) > MAX_PANELS:
        print(f"{what}: the first {MAX_PANELS} of {len(settings)} settings are drawn", file=sys.stderr)
    return settings[:MAX_PANELS]


def draw_quality(plt, data):
    measures = [
        ("perplexity above dense (%)", quality_lines(data["settings"], perplexity_point)),
        ("needles found, % of dense's", quality_lines(data["settings"], needle_point)),
    ]
    measures = [(label, lines) for label, lines in measures if lines]
    if not measures:
        return None
    figure, axes = panels(plt, len(measures))
    for axis, (label, lines) in zip(axes, measures):
        for line, points in sorted(lines.items()):
            xs, ys = [100 * x for x, _, _ in points], [y for _, y, _ in points]
            axis.plot(xs, ys, marker="o", markersize=4, linewidth=1, label=line)
            for x, y, (_, _, name) in zip(xs, ys, points):
                axis.annotate(name, (x, y), textcoords="offset points", xytext=(3, 3), fontsize=6)
        axis.set_xlabel("remote KV read (%)")
        axis.set_ylabel(label)
        axis.grid(True, linewidth=0.3)
        axis.legend(fontsize=7)
    return figure


def draw_grid(axis, values, x_labels, y_labels, vmax=100):
    image = axis.imshow(values, vmin=0, vmax=vmax, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(x_labels)), x_labels)
    axis.set_yticks(range(len(y_labels)), y_labels)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if not math.isnan(value):
                colour = "black" if value > 0.6 * vmax else "white"
                axis.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=6, color=colour)
    return image


def draw_needles(plt, data):
    settings = [s for s in data["settings"] if s["needles"] is not None and s["needles"]["questions"]]
    if not settings:
        return None
    settings = limited(settings, "needles")
    figure, axes = panels(plt, len(settings))
    for axis, setting in zip(axes, settings):
        lengths, grid = needle_grid(setting["needles"]["questions"])
        depths = [f"{i / DEPTH_BINS:.1f} to {(i + 1) / DEPTH_BINS:.1f}" for i in range(DEPTH_BINS)]
        draw_grid(axis, [[100 * v for v in row] for row in grid], [f"{n:,}" for n in lengths], depths)
        axis.set_title(title(setting), fontsize=8)
        axis.set_xlabel("prompt (tokens)")
        axis.set_ylabel("depth")
    figure.suptitle("needles found (%)", fontsize=10)
    return figure


def draw_retention(plt, data):
    settings = [s for s in data["settings"] if s.get("heads") is not None and not is_dense(s)]
    if not settings:
        return None
    settings = limited(settings, "retention")
    figure, axes = panels(plt, len(settings))
    for axis, setting in zip(axes, settings):
        grid = [[100 * v for v in row] for row in setting["heads"]["remote_read_share"]]
        largest = max(max(row) for row in grid) or 1
        image = draw_grid(axis, grid, range(len(grid[0])), range(len(grid)), largest)
        figure.colorbar(image, ax=axis)
        axis.set_title(title(setting), fontsize=8)
        axis.set_xlabel("KV head")
        axis.set_ylabel("layer")
    figure.suptitle("remote KV read by each head (%)", fontsize=10)
    return figure


FIGURES = {"quality": draw_quality, "needles": draw_needles, "retention": draw_retention}


def run(arguments):
    data = load(arguments.file)
    try:
        import matplotlib
    except ImportError:
        raise FigureError("matplotlib is missing; install it: apt-get install python3-matplotlib") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["font.size"] = 8
    matplotlib.rcParams["svg.hashsalt"] = "tributary"  # the same data gives the same file
    import matplotlib.pyplot as plt

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        figure = draw(plt, data)
        if figure is None:
            print(f"{name}: the file has no data for it", file=sys.stderr)
            continue
        path = arguments.out / f"{name}.{arguments.format}"
        figure.tight_layout()
        figure.savefig(path, dpi=150, metadata={"Date": None} if arguments.format == "svg" else None)
        plt.close(figure)
        print(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, help="what `tributary eval --json` wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the figures")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    try:
        run(parser.parse_args())
    except FigureError as error:
        print(f"eval_figures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
