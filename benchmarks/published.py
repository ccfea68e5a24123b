"""Train a recipe of `examples/` in full, measure it on meta-test, and set it beside what was published.

    python benchmarks/published.py cifar-fs-prototypical-conv4-64 --data-root ../shared/data

Goes on where an interrupted run stopped. `--folder` takes a model that `autometa train` made of the recipe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from end_to_end import RESULTS, autometa, machine

EXAMPLES = RESULTS.parents[1] / "examples"
PUBLISHED = RESULTS / "published"
# Published accuracy by shot, and where it stands.
CLAIMS: dict[str, tuple[dict[int, str], str]] = {
    "cifar-fs-prototypical-conv4-64": ({5: "72.0 ± 0.6"}, "Snell et al. 2017, in Lee et al. 2019, table 2"),
    "cifar-fs-pretrain-conv4-64": ({1: "62.7 ± 0.8", 5: "78.7 ± 0.5"}, "Tian et al. 2020 (RFS-simple)"),
    "cifar-fs-ridge-conv4-64": ({5: "79.4 ± 0.1 (96-192-384-512)"}, "Bertinetto et al. 2019, in Lee et al. 2019"),
    "cifar-fs-maml-conv4-32": ({5: "71.5 ± 1.0"}, "Finn et al. 2017, in Lee et al. 2019, table 2"),
    "omniglot-prototypical-conv4-64": ({1: "98.8"}, "Snell et al. 2017"),
    "omniglot-maml-conv4-64": ({1: "98.7 ± 0.4"}, "Finn et al. 2017"),
    # Of another network with other weights: the nearest that is published.
    "cifar-fs-tuned-lite1": ({1: "84.3 (ViT-base, DINO)", 5: "92.2 (ViT-base, DINO)"}, "Hu et al. 2022 (P>M>F)"),
}
EPISODES = 2000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CLAIMS)
    parser.add_argument("--data-root")
    parser.add_argument("--folder")
    parser.add_argument("--note", default="", help="what else ran on the machine, and what else a reader must know")
    arguments = parser.parse_args()
    root = ["--data-root", str(Path(arguments.data_root).resolve())] if arguments.data_root else []
    folder = str(Path(arguments.folder or f"runs/published/{arguments.name}").resolve())
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    facts = measure(arguments.name, folder, root) | ({"note": arguments.note} if arguments.note else {})
    (PUBLISHED / f"{arguments.name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    (RESULTS / "published.md").write_text(table())
    print(table())


def measure(name: str, folder: str, root: list[str]) -> dict[str, Any]:
    here = Path.cwd()
    recipe = str(EXAMPLES / f"{name}.toml")
    record = json.loads(autometa("train", recipe, "-o", folder, "--json", *root, folder=here))
    tested = {}
    for shot in CLAIMS[name][0]:
        options = ["--shot", str(shot), "--episodes", str(EPISODES), "--seed", "1", "--json", *root]
        tested[shot] = json.loads(autometa("evaluate", folder, *options, folder=here))
    last = record["curve"][-1]
    return {
        **machine(),
        "recipe": f"examples/{name}.toml",
        "norm": record["config"]["values"].get("norm") or record["config"]["values"].get("maml.norm", ""),
        "config": record["config"]["values"],
        "facts": record["facts"],
        "steps": last["steps"],
        "train_seconds": last["seconds"],
        "curve": [[r["steps"], round(100 * r["accuracy"]["mean"], 2)] for r in record["curve"]],
        "meta_test": tested,
    }


def table() -> str:
    lines = [
        "# Published settings, trained here: meta-test accuracy, %",
        "",
        f"5-way, {EPISODES:,} episodes, 95 % intervals over episodes; one seed each, inductive. `python "
        "benchmarks/published.py NAME` makes a row again; curves and machine are in `published/`.",
        "",
        "| recipe | shots | here | published | training | norm | |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in sorted(PUBLISHED.glob("*.json")):
        facts = json.loads(file.read_text())
        claims, where = CLAIMS[file.stem]
        time = f"{facts['steps']:,} steps, {facts['train_seconds'] / 60:.0f} min, one thread"
        for shot, found in facts["meta_test"].items():
            ours = f"{100 * found['mean']:.1f} ± {100 * found['half_width']:.1f}"
            cells = [file.stem, shot, ours, f"{claims[int(shot)]}, {where}", time, facts["norm"], facts.get("note", "")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
