"""HGCA's own blocks of docs/quality.md, all of the probe model: runs, tables, verdict. tools/quality.py calls this."""

import json
import pathlib

import eval_figures
from quality_tables import markdown_table, needles_cell, number, parameter_flags, percent

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPERIMENT = json.loads((ROOT / "policy" / "hgca" / "quality.json").read_text())
WINDOWS = "256,1024,4096"
WINDOW = 1024  # of everything but the grid
# Run -> calls of tools/eval_figures.py.
FIGURES = {
    "grid": [["--figures", "quality"], ["--figures", "retention,kept_mass", "--window", str(WINDOW)]],
    "settings": [["--figures", "quality,retention"]],
    "lengths": [["--figures", "needles"]],
}

# What the documented setting has to hold.
MAX_REMOTE_READ = 0.10
MIN_NEEDLES = 0.98
MAX_PERPLEXITY_RATIO = 1.01


def runs(quick):
    """{name: flags of `tributary eval`}. Turns are many questions to one sequence, which cost one prefill."""
    prompt, decode, queries = (2048, 64, 4) if quick else (16384, 2048, 16)
    common = ["--policy", EXPERIMENT["policy"], "--quality-sample-rate", "0.0625"]
    grid = parameter_flags(EXPERIMENT["retention" if quick else "grid"])
    settings = parameter_flags(EXPERIMENT["documented" if quick else "settings"])
    documented = parameter_flags(EXPERIMENT["documented"])
    text = ["--prefill-tokens", str(prompt), "--decode-tokens", str(decode)]
    one = ["--window-tokens", str(WINDOW)]
    single = ["--lengths", str(prompt), "--needles", "8", "--tasks", "multi-key",
              "--depths", "0.1,0.3,0.5,0.7,0.9"]

    def turns(count, lengths):
        return ["--tasks", "multi-query", "--needles", str(count), "--queries", str(count), "--turns",
                "--lengths", lengths]

    return {
        "grid": [*common, *text, "--window-tokens", "256,1024" if quick else WINDOWS,
                 *grid, *turns(queries, str(prompt))],
        "settings": [*common, *text, *one, *settings, *turns(2 * queries, str(prompt)), "--questions",
                     "1" if quick else "2"],
        # The documented setting, each question a prompt of its own.
        "prompts": [*common, *one, *documented, *single, "--questions", "1" if quick else "5"],
        # The selection is made before the question is seen.
        "unseen": [*common, *one, *documented, *single, "--decode-question"],
        "lengths": [*common, *one, *documented,
                    *turns(2 * queries, "1024,2048" if quick else "4096,8192,16384")],
    }


def row_of(setting):
    scored, needles = setting["perplexity"], setting["needles"]
    return [
        f"{100 * (scored['perplexity_ratio'] - 1):+.2f} %",
        number(scored.get("kl_mean")),
        percent(scored.get("top1_agreement")),
        percent(scored["remote_read_share"]),
        percent(scored.get("kept_mass_mean")),
        percent(scored.get("kept_mass_min")),
        needles_cell(needles),
        percent(needles["remote_read_share_mean"] if needles else None),
    ]


MEASURES = ["perplexity", "KL (nats)", "same top-1", "remote KV read", "mass kept, mean", "least",
            "needles, of dense's", "remote KV read for them"]


def parameter_cells(setting, names):
    return [f"{setting[name]:g}" for name in names]


def grid_table(data):
    settings = [s for s in data["settings"] if not eval_figures.is_dense(s)]
    names = list(EXPERIMENT["grid"])
    rows = [[f"{s['window_tokens']:,}", *parameter_cells(s, names), *row_of(s)] for s in settings]
    return markdown_table(["window", *names, *MEASURES], rows, left=0)


def settings_table(data):
    settings = [s for s in data["settings"] if not eval_figures.is_dense(s)]
    names = list(EXPERIMENT["documented"])
    rows = [[*parameter_cells(s, names), *row_of(s)] for s in settings]
    return markdown_table([*names, *MEASURES], rows, left=0)


def verdict(scored, turns, single):
    """Three requirements, what was measured, and whether it is enough: rows of a table. The reads of single prompts are
    not among them: see documented_block()."""
    read = max(scored["remote_read_share"], turns["remote_read_share_mean"])
    found = turns["found_where_baseline"] + single["found_where_baseline"]
    of = turns["baseline_found"] + single["baseline_found"]
    raised = scored["perplexity_ratio"] - 1
    rows = [
        ["remote KV read: text, turns", f"<= {percent(MAX_REMOTE_READ, 0)}",
         f"{percent(scored['remote_read_share'])}, {percent(turns['remote_read_share_mean'])}",
         read <= MAX_REMOTE_READ],
        ["needles found, of those that dense found: single prompts and turns", f">= {percent(MIN_NEEDLES, 0)}",
         f"{percent(found / of)} ({needles_cell(single)} and {needles_cell(turns)})", found >= MIN_NEEDLES * of],
        ["perplexity raised by", f"< {percent(MAX_PERPLEXITY_RATIO - 1, 0)}", f"{100 * raised:+.2f} %",
         raised < MAX_PERPLEXITY_RATIO - 1],
    ]
    return [[*row[:-1], "yes" if row[-1] else "NO"] for row in rows]


def documented_block(settings, prompts):
    """The documented setting: text and turns of one run, single prompts of the other."""
    single = next(s for s in prompts["settings"] if not eval_figures.is_dense(s))
    same = (*EXPERIMENT["documented"], "window_tokens")
    turns = next(s for s in settings["settings"] if all(s[name] == single[name] for name in same))
    rows = verdict(turns["perplexity"], turns["needles"], single["needles"])
    steps = len(single["needles"]["questions"][0]["expected"]) - 1  # the first token comes from the prefill
    return (markdown_table(["", "asked for", "measured", "holds"], rows) + "\n\n"
            f"The first decode step after a prefill reads everything, for that is when prefilled KV is selected: over "
            f"the {steps} steps of an answer in a single prompt, "
            f"{percent(single['needles']['remote_read_share_mean'])} is read. In turns the appended "
            "question selects; its own queries attend to everything, as those of any prompt do, and no share here "
            "counts them.")


def retention_table(data):
    """By layer and KV head, in the setting named by `retention` and the window of the documented one."""
    found = [s for s in data["settings"] if s["window_tokens"] == WINDOW and s.get("heads")
             and all(s[name] == value for name, value in EXPERIMENT["retention"].items())]
    if not found:
        return "Not reported by this cluster."
    grid = found[0]["heads"]["remote_read_share"]
    header = ["layer", *(f"KV head {head}" for head in range(len(grid[0])))]
    return markdown_table(header, [[str(layer), *(percent(v) for v in row)] for layer, row in enumerate(grid)], left=0)


def lengths_line(data):
    asked = next(s for s in data["settings"] if not eval_figures.is_dense(s))["needles"]["questions"]
    cells = []
    for length in sorted({q["length_tokens"] for q in asked}):
        found = [q["found"] for q in asked if q["length_tokens"] == length]
        cells.append(f"{sum(found)} of {len(found)} in {length:,} tokens")
    return f"Needles of the setting by length and depth, as turns: {', '.join(cells)}."


def unseen_line(data):
    asked = next(s for s in data["settings"] if not eval_figures.is_dense(s))["needles"]
    return (f"With questions fed token by token behind the text (`--decode-question`), the setting above finds "
            f"{asked['found_where_baseline']} of the {asked['baseline_found']} needles that dense finds.")


def source_line(data):
    scored, needles = data["settings"][0]["perplexity"], data["settings"][0]["needles"]
    return (f"{data['prefill_tokens']:,} tokens prefilled, {data['decode_tokens']:,} decoded. Dense: perplexity "
            f"{scored['perplexity']:.4f} per byte, {needles['found']} of {needles['asked']} needles found.")


def blocks(results):
    """{name of a block: its text}."""
    grid, settings = results["grid"], results["settings"]
    return {"documented": documented_block(settings, results["prompts"]),
              "grid": source_line(grid) + "\n\n" + grid_table(grid),
              "settings": source_line(settings) + "\n\n" + settings_table(settings),
              "retention": retention_table(grid),
              "lengths": lengths_line(results["lengths"]),
              "unseen": unseen_line(results["unseen"])}
