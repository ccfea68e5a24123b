"""The commands and their help, one table of contents. What they do is in the files beside this one."""

from __future__ import annotations

import typer

from autometa.cli import after, predict, priors, search, show, studies, train

app = typer.Typer(
    name="autometa",
    help="AutoML for few-shot image classification: searches backbones and learners, and confirms the winner.",
    epilog="Start with: autometa search",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        import autometa

        print(f"autometa {autometa.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options before the command."""


app.command("search", epilog="Example: autometa search --dataset cifar-fs --shot 5 --time-budget 15m")(search.search)
app.command("datasets", epilog="Example: autometa datasets --data-root ~/data")(show.datasets)
app.command("spaces", epilog="Example: autometa spaces few_shot")(show.spaces)
app.add_typer(studies.app, name="studies", epilog="Example: autometa studies show digits-5w1s")
app.add_typer(priors.app, name="priors", epilog="Example: autometa priors map --dataset digits")
app.command("export", epilog="Example: autometa export digits-5w1s --top 3 -o best.toml")(after.export)
app.command("train", epilog="Example: autometa train runs/omniglot-5w1s/model --budget 2h")(train.train)
app.command("evaluate", epilog="Example: autometa evaluate model --episodes 2000")(after.evaluate)
app.command("predict", epilog="Example: autometa predict runs/STUDY/model --support my_classes/ --query inbox/")(
    predict.predict
)
app.command("dashboard", epilog="Example: autometa dashboard --port 8080")(after.dashboard)
