"""Cells and tables of docs/quality.md, and flags out of a policy's quality.json."""


def parameter_flags(parameters):
    """Flags of `tributary eval`. {"keep_min": [1, 2]} is --keep-min 1,2, and {"keep_min": 1} is --keep-min 1."""
    flags = []
    for name, values in parameters.items():
        values = values if isinstance(values, list) else [values]
        texts = [value if isinstance(value, str) else f"{value:g}" for value in values]
        flags += ["--" + name.replace("_", "-"), ",".join(texts)]
    return flags


def percent(value, digits=1):
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def needles_cell(result):
    return "-" if result is None else f"{result['found_where_baseline']}/{result['baseline_found']}"


def number(value):
    return "-" if value is None else f"{value:.2g}"


def markdown_table(header, rows, left=1):
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))
