#!/usr/bin/env python3
"""Draws the figures of `tributary eval --json FILE` (client/eval/README.md has the schema).

    tools/eval_figures.py FILE --out FOLDER [--format svg,png] [--window W]

quality:    perplexity, KL divergence and needles found against dense, over the share of remote KV that was read
needles:    needle accuracy by length and depth, one panel per setting
policies:   KL divergence against dense over the share of remote KV that was read, one line per policy
retention:  share of the remote KV that each KV head of each layer read, one panel per setting
kept_mass:  share of the remote softmax that lies on what was read, likewise, where it was measured

Prints the files it wrote. A figure without data is not drawn, and said so. Needs matplotlib: that of the Python which
runs this, else that of the system's Python, for which the distribution has it (python3-matplotlib).
"""

import argparse
import json
import math
import os
import pathlib
import sys

SYSTEM_PYTHON = "/usr/bin/python3"
SCHEMA = "tributary.eval/1"
DEPTH_BINS = 5
MAX_PANELS = 12
MAX_LABELLED_CELLS = 64  # of a heat map; beyond, numbers would run into each other
MIN_KL = 1e-7  # a logarithmic axis has no 0


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
    for setting in data.get("settings", []):
        names = data.get("parameters", [])
        setting["parameters"] = {name: setting[name] for name in names if setting.get(name) not in (None, [])}
    return data


def is_dense(setting):
    return setting["policy"] == "dense"


def spoken(name):
    return name.removesuffix("_tokens").replace("_", " ")


def words(setting):
    """{name: "name value"} of what was given: the policy, its parameters, the window."""
    found = {"policy": setting["policy"]}
    for name, value in setting["parameters"].items():
        if isinstance(value, list):
            value = " ".join(str(v) for v in value)
        found[name] = f"{spoken(name)} {value:g}" if isinstance(value, float) else f"{spoken(name)} {value}"
    found["window_tokens"] = f"window {setting['window_tokens']:,}"
    return found


def varied_parameter(settings):
    """The parameter that takes the most values, all of them numbers; None if none takes two."""
    values = {}
    for setting in settings:
        for name, value in setting["parameters"].items():
            values.setdefault(name, set()).add(str(value) if isinstance(value, (list, str)) else value)
    counts = {name: len(found) for name, found in values.items() if not any(isinstance(v, str) for v in found)}
    most = max(counts, key=counts.get, default=None)
    return most if most is not None and counts[most] > 1 else None


def common_words(settings):
    """What all of them have: it goes into the heading, once."""
    first = words(settings[0])
    return {name: word for name, word in first.items() if all(words(s).get(name) == word for s in settings)}


def title(setting, common=(), without=()):
    return ", ".join(word for name, word in words(setting).items() if name not in common and name not in without)


def heading(text, data, common):
    return ", ".join([f"{text}: {data['model']['name']}", *common.values()])


def quality_lines(settings, measure, common=(), varied=None):
    """{line label: [(remote read share, value, number or None)]}, ascending; `measure` gives (share, value) or None.

    `varied`: the parameter that is no part of a line's label but the number at each of its points.

    Dense reads everything and differs from itself in nothing: it is the axis, not a line.
    """
    lines = {}
    for setting in settings:
        point = None if is_dense(setting) else measure(setting)
        if point is not None:
            line = title(setting, common, without=(varied,)) or title(setting, without=(varied,))
            lines.setdefault(line, []).append((*point, setting["parameters"].get(varied)))
    return {line: sorted(points, key=lambda p: p[:2]) for line, points in lines.items()}


def perplexity_point(setting):
    result = setting["perplexity"]
    if result is None or "perplexity_ratio" not in result:
        return None
    return result["remote_read_share"], 100 * (result["perplexity_ratio"] - 1)


def kl_point(setting):
    result = setting["perplexity"]
    if result is None or result.get("kl_mean") is None:
        return None
    return result["remote_read_share"], max(result["kl_mean"], MIN_KL)


def needle_point(setting):
    result = setting["needles"]
    if result is None or result["baseline_found"] == 0:
        return None
    return result["remote_read_share_mean"], 100 * result["found_where_baseline"] / result["baseline_found"]


def kl_label(data):
    exact = all(s["perplexity"].get("kl_is_exact", True) for s in data["settings"] if s["perplexity"])
    return "KL divergence from dense (nats)" if exact else "KL divergence from dense, lower bound (nats)"


def depth_bin(depth):
    return min(DEPTH_BINS - 1, int(depth * DEPTH_BINS))


def needle_grid(questions):
    """(lengths ascending, accuracy[depth bin][length], NaN where nothing was asked)."""
    lengths = sorted({q["length_tokens"] for q in questions})
    found = [[[] for _ in lengths] for _ in range(DEPTH_BINS)]
    for q in questions:
        found[depth_bin(q["depth"])][lengths.index(q["length_tokens"])].append(q["found"])
    return lengths, [[sum(cell) / len(cell) if cell else math.nan for cell in row] for row in found]


def head_grid(setting, field):
    """Per cent by layer and KV head, NaN where nothing was measured; None if the setting has none of it."""
    rows = (setting.get("heads") or {}).get(field)
    if is_dense(setting) or not rows:
        return None
    grid = [[math.nan if value is None else 100 * value for value in row] for row in rows]
    return grid if any(not math.isnan(value) for row in grid for value in row) else None


def panels(plt, count, width=3.2, height=2.9):
    columns = min(4, count) if count != 6 else 3
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False,
                                layout="constrained")
    flat = [axis for row in axes for axis in row]
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def limited(settings, what):
    if len(settings) > MAX_PANELS:
        print(f"{what}: the first {MAX_PANELS} of {len(settings)} settings are drawn; --window W picks others",
              file=sys.stderr)
    return settings[:MAX_PANELS]


def draw_line(axis, number, line, points):
    """Points are labelled with their numbers, above and below the line in turn: labels of neighbours keep apart."""
    xs, ys = [100 * x for x, _, _ in points], [y for _, y, _ in points]
    marker = "osD^vPX*"[number % 8]
    axis.plot(xs, ys, marker=marker, markersize=4.5, linewidth=1.1, label=line, color=f"C{number % 10}", clip_on=False)
    for i, (x, y, (_, _, number_there)) in enumerate(zip(xs, ys, points)):
        if number_there is None:
            continue
        up = (i + number) % 2 == 0
        axis.annotate(f"{number_there:g}", (x, y), textcoords="offset points", xytext=(0, 5 if up else -5), ha="center",
                      va="bottom" if up else "top", fontsize=6, color=f"C{number % 10}")


def widen(axis, name, values):
    """No axis makes much of little: a decade of KL at least, and needles from 90 % on."""
    if name == "Needles":
        axis.set_ylim(min(*values, 90) - 2, 102)
    elif name == "Distributions" and max(values) < 10 * min(values):
        middle = math.sqrt(max(values) * min(values))
        axis.set_ylim(middle / 10**0.6, middle * 10**0.6)


def draw_quality(plt, data):
    settings = [s for s in data["settings"] if not is_dense(s)]
    if not settings:
        return None
    common = common_words(settings)
    varied = varied_parameter(settings)
    measures = [
        ("Perplexity", "above dense (%)", quality_lines(settings, perplexity_point, common, varied), 0),
        ("Distributions", kl_label(data), quality_lines(settings, kl_point, common, varied), None),
        ("Needles", "found, of those that dense found (%)", quality_lines(settings, needle_point, common, varied), 100),
    ]
    measures = [measure for measure in measures if measure[2]]
    if not measures:
        return None
    figure, axes = panels(plt, len(measures), 3.9, 3.7)
    names = sorted({line for _, _, lines, _ in measures for line in lines}, key=lambda n: (len(n), n))
    for axis, (name, label, lines, dense) in zip(axes, measures):
        for line, points in lines.items():
            draw_line(axis, names.index(line), line, points)
        if dense is not None:
            axis.axhline(dense, color="grey", linewidth=0.8, linestyle="--", label="dense")
        else:
            axis.set_yscale("log")
        axis.set_xscale("log")
        axis.set_xticks([ten * digit for ten in (0.01, 0.1, 1, 10, 100) for digit in (1, 2, 5)], minor=False)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_xlim(0.8 * min(100 * x for points in lines.values() for x, _, _ in points), 110)
        axis.set_xlabel("remote KV read (%)")
        axis.set_ylabel(label)
        axis.set_title(name)
        axis.margins(0.08, 0.12)
        widen(axis, name, [y for points in lines.values() for _, y, _ in points])
        axis.grid(True, linewidth=0.3)
    handles = dict(sorted(zip(*reversed(axes[0].get_legend_handles_labels())), key=lambda item: item[0] == "dense"))
    # Below the axes, where it covers nothing; the saved figure grows by it.
    figure.legend(handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.01),
                  ncols=min(4, len(handles)), fontsize=8)
    numbers = f" (numbers: {spoken(varied)})" if varied else ""
    figure.suptitle(heading("Quality against remote KV read", data, common) + numbers)
    return figure


def policy_lines(settings):
    """{policy and the words among its parameters: [(remote read share, KL, None)]}, ascending."""
    lines = {}
    for setting in settings:
        point = None if is_dense(setting) else kl_point(setting)
        if point is not None:
            chosen = [value for value in setting["parameters"].values() if isinstance(value, str)]
            lines.setdefault(" ".join([setting["policy"], *chosen]), []).append((*point, None))
    return {line: sorted(points, key=lambda p: p[:2]) for line, points in lines.items()}


def draw_policies(plt, data):
    lines = policy_lines(data["settings"])
    if not lines:
        return None
    figure, (axis,) = panels(plt, 1, 5.2, 3.9)
    for number, (line, points) in enumerate(lines.items()):
        draw_line(axis, number, line, points)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks([ten * digit for ten in (0.01, 0.1, 1, 10, 100) for digit in (1, 2, 5)], minor=False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    # A policy may have read nothing, which such an axis does not have.
    read = [100 * x for points in lines.values() for x, _, _ in points if x > 0] or [1]
    axis.set_xlim(0.8 * min(read), 110)
    axis.set_xlabel("remote K and V read (% of their bytes)")
    axis.set_ylabel(kl_label(data))
    axis.grid(True, linewidth=0.3)
    axis.legend(fontsize=8)
    axis.set_title(f"All policies: {data['model']['name']}")
    return figure


def draw_grid(axis, values, x_labels, y_labels, norm, colours):
    image = axis.imshow(values, norm=norm, cmap=colours, aspect="auto")
    axis.set_xticks(range(len(x_labels)), x_labels)
    axis.set_yticks(range(len(y_labels)), y_labels)
    if len(x_labels) * len(y_labels) > MAX_LABELLED_CELLS:
        axis.locator_params(nbins=9, integer=True)
        return image
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            if not math.isnan(value):
                red, green, blue, _ = image.cmap(norm(value))
                bright = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
                axis.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=7,
                          color="black" if bright else "white")
    return image


def draw_needles(plt, data):
    settings = [s for s in data["settings"] if s["needles"] is not None and s["needles"]["questions"]]
    if not settings:
        return None
    settings = limited(settings, "needles")
    common = common_words(settings)
    figure, axes = panels(plt, len(settings))
    norm = plt.Normalize(0, 100)
    for axis, setting in zip(axes, settings):
        lengths, grid = needle_grid(setting["needles"]["questions"])
        depths = [f"{100 * i // DEPTH_BINS}-{100 * (i + 1) // DEPTH_BINS} %" for i in range(DEPTH_BINS)]
        image = draw_grid(axis, [[100 * v for v in row] for row in grid], [f"{n:,}" for n in lengths], depths, norm,
                          "viridis")
        axis.set_title(title(setting, common), fontsize=8)
        axis.set_xlabel("prompt (tokens)")
        axis.set_ylabel("depth of the needle")
    figure.colorbar(image, ax=axes, shrink=0.8, label="found (%)")
    figure.suptitle(heading("Needles found", data, common))
    return figure


def draw_heads(plt, data, field, name, text, label, norm_of, colours):
    """Heat maps by layer and KV head on one scale, so that settings can be compared."""
    settings = [(s, grid) for s in data["settings"] if (grid := head_grid(s, field)) is not None]
    if not settings:
        return None
    settings = limited(settings, name)
    norm = norm_of([value for _, grid in settings for row in grid for value in row if not math.isnan(value)])
    common = common_words([setting for setting, _ in settings])
    num_layers, num_heads = len(settings[0][1]), len(settings[0][1][0])
    figure, axes = panels(plt, len(settings), max(2.4, 0.3 * num_heads), max(2.4, min(5.0, 0.42 * num_layers)))
    for axis, (setting, grid) in zip(axes, settings):
        image = draw_grid(axis, grid, range(len(grid[0])), range(len(grid)), norm, colours)
        axis.set_title(title(setting, common), fontsize=8)
        axis.set_xlabel("KV head")
        axis.set_ylabel("layer")
    figure.colorbar(image, ax=axes, shrink=0.8, label=label, format="%g")
    figure.suptitle(heading(text, data, common))
    return figure


def draw_retention(plt, data):
    from matplotlib.colors import LogNorm

    def norm_of(values):
        positive = [value for value in values if value > 0] or [100]
        return LogNorm(min(min(positive), 99), 100, clip=True)

    return draw_heads(plt, data, "remote_read_share", "retention", "Remote KV read by each head",
                      "of the remote tokens (%)", norm_of, "viridis")


def draw_kept_mass(plt, data):
    def norm_of(values):
        return plt.Normalize(min(*values, 99), 100)

    return draw_heads(plt, data, "kept_mass_mean", "kept_mass", "Softmax mass kept by each head",
                      "of the remote softmax, mean (%)", norm_of, "cividis")


FIGURES = {"quality": draw_quality, "policies": draw_policies, "needles": draw_needles, "retention": draw_retention,
           "kept_mass": draw_kept_mass}


def set_style(matplotlib):
    matplotlib.use("Agg")
    matplotlib.rcParams["font.size"] = 8
    matplotlib.rcParams["axes.titlesize"] = 9
    matplotlib.rcParams["svg.hashsalt"] = "tributary"  # the same data gives the same file


def import_matplotlib():
    """The package. If only the system's Python has it, this process becomes that one, with the same arguments."""
    try:
        import matplotlib
    except ImportError:
        if sys.prefix != "/usr" and os.access(SYSTEM_PYTHON, os.X_OK):
            os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])
        raise FigureError(f"matplotlib is missing; install it: apt-get install python3-matplotlib (for {SYSTEM_PYTHON})"
                          ) from None
    return matplotlib


def run(arguments):
    data = load(arguments.file)
    if arguments.window:
        data["settings"] = [s for s in data["settings"] if s["window_tokens"] in arguments.window]
    set_style(import_matplotlib())
    import matplotlib.pyplot as plt

    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.figures or FIGURES:
        figure = FIGURES[name](plt, data)
        if figure is None:
            print(f"{name}: the file has no data for it", file=sys.stderr)
            continue
        for kind in arguments.format:
            path = arguments.out / f"{name}.{kind}"
            figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else None)
            print(path)
        plt.close(figure)


def listed(kind, allowed=None):
    """An argparse type: a comma-separated list."""
    def parse(text):
        values = [kind(word) for word in text.split(",")]
        bad = [str(value) for value in values if allowed is not None and value not in allowed]
        if bad:
            raise argparse.ArgumentTypeError(f"'{bad[0]}' is none of {', '.join(allowed)}")
        return values
    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path, help="what `tributary eval --json` wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the figures")
    parser.add_argument("--format", type=listed(str, ("svg", "png")), default=["svg"],
                        help="svg (default), png or both")
    parser.add_argument("--window", type=listed(int), help="only settings with these windows")
    parser.add_argument("--figures", type=listed(str, tuple(FIGURES)), help="only these (default: all)")
    try:
        run(parser.parse_args())
    except FigureError as error:
        print(f"eval_figures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
