"""The blocks of docs/quality.md that compare all policies on one model: runs, tables, figure.

What is tried of a policy stands in its folder, policy/NAME/quality.json: `compare` for texts, `compare_tasks`, of which
there should be few, for tasks and drift; lists of values by parameter. A policy without that file is not on the page.
"""

import json
import pathlib
from dataclasses import dataclass

import eval_figures
from quality_tables import markdown_table, number, parameter_flags, percent

ROOT = pathlib.Path(__file__).resolve().parent.parent
WINDOW = 1024
SAMPLE_RATE = "0.0625"
PARTS = ("text", "tasks", "tasks-after", "drift")
TASKS = ("multi-key", "key-value", "extraction")


@dataclass(frozen=True)
class Model:
    """How long texts and prompts are, in the model's tokens; and how many bytes of a text that takes at most."""

    folder: pathlib.Path
    what: str
    prefill: int
    decode: int
    prompt: int
    drift_prefill: int
    drift: int
    stretch_bytes: int
    made_by: str = ""


MODELS = {
    "probe": Model(ROOT / "models" / "probe", "the probe model (6 layers, 8 query and 2 KV heads, bytes for tokens)",
                   prefill=16384, decode=1024, prompt=8192, drift_prefill=1024, drift=8000, stretch_bytes=42_000),
    "smollm2": Model(ROOT / "models" / "smollm2", "SmolLM2-135M-Instruct (30 layers, 9 query and 3 KV heads)",
                     prefill=4096, decode=1024, prompt=4096, drift_prefill=192, drift=8000, stretch_bytes=42_000,
                     made_by="./dev model smollm2"),
}
# --quick: whether everything works.
QUICK = {"prefill": 1536, "decode": 24, "prompt": 1536, "drift_prefill": 1100, "drift": 24}


def experiments(folder=ROOT / "policy"):
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/quality.json"))]
    return [experiment for experiment in found if "compare" in experiment]


def policy_flags(experiment, key, quick):
    values = {name: of[:2] if quick else of for name, of in experiment[key].items()}
    return ["--policy", experiment["policy"], *parameter_flags(values)]


def write_stretches(model, text, folder):
    """Three stretches of the text, as files: one text says little of perplexity."""
    content = text.read_bytes()
    size = min(model.stretch_bytes, len(content) // 3)
    paths = []
    for i in range(3):
        begin = i * (len(content) // 3)
        path = folder / f"{text.stem}-{i + 1}.txt"
        stretch = content[begin:begin + size].decode("utf-8", "ignore").encode()
        if not path.exists() or path.read_bytes() != stretch:
            path.write_bytes(stretch)
        paths.append(path)
    return paths


def runs(name, texts, quick):
    """{(part, policy): flags of `tributary eval`} of a model: a run per policy, so that all can run side by side."""
    model = MODELS[name]
    size = {**vars(model), **(QUICK if quick else {})}
    common = ["--window-tokens", "512" if quick else str(WINDOW), "--quality-sample-rate", SAMPLE_RATE,
              "--text-file", ",".join(str(text) for text in texts)]
    tasks = ["--lengths", str(size["prompt"]), "--tasks", ",".join(TASKS), "--needles", "8", "--fields", "6",
             "--depths", "0.5" if quick else "0.1,0.5,0.9", "--questions", "1" if quick else "4"]
    parts = {
        "text": ("compare", ["--prefill-tokens", str(size["prefill"]), "--decode-tokens", str(size["decode"])]),
        "tasks": ("compare_tasks", tasks),
        "tasks-after": ("compare_tasks", [*tasks, "--decode-question"]),
        "drift": ("compare_tasks",
                  ["--prefill-tokens", str(size["drift_prefill"]), "--drift-tokens", str(size["drift"])]),
    }
    return {(part, experiment["policy"]): [*common, *policy_flags(experiment, key, quick), *flags]
            for part, (key, flags) in parts.items() for experiment in experiments()}


def merged(of_policies):
    """One result out of those of a part's policies, with the first one's dense."""
    first, *others = of_policies
    names = dict.fromkeys(name for data in of_policies for name in data.get("parameters", []))
    settings = [s for data in others for s in data["settings"] if not eval_figures.is_dense(s)]
    return {**first, "parameters": list(names), "settings": [*first["settings"], *settings]}


def key_of(setting):
    """What makes two settings of different runs the same."""
    return (setting["policy"], setting["window_tokens"], *sorted(setting["parameters"].items()))


def label_of(setting):
    """"NAME word, number 1": the policy with its parameters, of which words stand alone."""
    spoken = eval_figures.words(setting)
    given = setting["parameters"].items()
    first = " ".join([setting["policy"], *(value for _, value in given if isinstance(value, str))])
    return ", ".join([first, *(spoken[name] for name, value in given if not isinstance(value, str))])


def text_cells(setting):
    scored = setting and setting["perplexity"]
    if not scored:
        return ["-"] * 6
    worst = scored.get("perplexity_ratio_worst", scored["perplexity_ratio"])
    return [f"{100 * (scored['perplexity_ratio'] - 1):+.2f} % ({100 * (worst - 1):+.2f} %)",
            f"{number(scored.get('kl_mean'))} ({number(scored.get('kl_mean_worst', scored.get('kl_mean')))})",
            percent(scored.get("top1_agreement")), percent(scored["remote_read_share"]),
            percent(scored.get("kept_mass_mean")), number(scored.get("output_error_p95"))]


def found_cell(setting, task):
    result = setting and setting["tasks"].get(task)
    return f"{result['found_where_baseline']}/{result['baseline_found']}" if result else "-"


def score_cell(setting, task):
    result = setting and setting["tasks"].get(task)
    if not result:
        return "-"
    dense = result["baseline_score_mean"]
    return f"{percent(result['score_mean'], 0)} of {percent(dense, 0)}" if dense else "dense has none"


def drift_cells(setting):
    drift = setting and setting["drift"]
    if not drift or not drift["parts"] or "kl_mean" not in drift["parts"][0]:
        return ["-", "-"]
    return [number(drift["parts"][0]["kl_mean"]), number(drift["parts"][-1]["kl_mean"])]


HEADER = ["policy", "perplexity, mean (worst text)", "KL, nats", "same top-1", "remote KV read", "mass kept",
          "output error, p95", "needles", "asked after", "key-value", "asked after", "extraction", "asked after",
          "drift: KL, first 1,000", "last"]


def compare_table(results):
    """A row per setting of any part; of the parts that have not been run, or do not have it, "-"."""
    by_part = {part: {key_of(s): s for s in results[part]["settings"]} if part in results else {} for part in PARTS}
    settings = {key: s for part in PARTS for key, s in by_part[part].items() if not eval_figures.is_dense(s)}
    policies = list(dict.fromkeys(s["policy"] for s in settings.values()))
    rows = []
    for key, setting in sorted(settings.items(), key=lambda item: policies.index(item[1]["policy"])):  # is stable
        text, tasks, after, drift = (by_part[part].get(key) for part in PARTS)
        row = [label_of(setting), *text_cells(text)]
        for task in TASKS:
            cell = score_cell if task == "extraction" else found_cell
            row += [cell(tasks, task), cell(after, task)]
        rows.append([*row, *drift_cells(drift)])
    return markdown_table(HEADER, rows)


def source_line(model, results):
    """What was measured, and what dense does."""
    said = [f"Of {model.what}."]
    if "text" in results:
        data = results["text"]
        dense = data["settings"][0]["perplexity"]
        texts = dense.get("texts", [dense])
        said.append(f"{len(texts)} texts, {data['prefill_tokens']:,} tokens prefilled and {data['decode_tokens']:,} "
                    f"decoded of each; dense: perplexity {dense['perplexity']:.4f}.")
    for part, when in (("tasks", "asked with the prompt"), ("tasks-after", "asked after the selection")):
        if part not in results:
            continue
        tasks = results[part]["settings"][0]["tasks"]
        found = [f"{task} {tasks[task]['found']} of {tasks[task]['asked']}" for task in TASKS[:2] if task in tasks]
        if "extraction" in tasks:
            found.append(f"extraction {percent(tasks['extraction']['score_mean'], 0)} of the fields")
        said.append(f"Dense, {when}: {', '.join(found)}.")
    if "drift" in results:
        said.append(f"Drift: {results['drift']['drift_tokens']:,} tokens that dense generates.")
    exact = all(s["perplexity"].get("kl_is_exact", True) for s in results.get("text", {"settings": []})["settings"]
                if s["perplexity"])
    if not exact:
        said.append("KL is a lower bound, of the 64 likeliest tokens of both sides.")
    return " ".join(said)


def block(name, results):
    parts = [source_line(MODELS[name], results), compare_table(results)]
    if "text" in results:
        parts.append(f"![KL over the share of remote KV read, all policies](figures/{name}/policies.svg)")
    return "\n\n".join(parts)
