"""`autometa search`: the main job, with a live table while it runs and the next commands when it ends."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import print_json
from autometa.cli.options import options_from
from autometa.study.search_settings import SearchSettings

if TYPE_CHECKING:
    from autometa.records import Confirmation, StudyRecord
    from autometa.study.search import SearchResult

Opt = typer.Option
# A time budget counts from here; what the interpreter took before is a few tenths of a second.
ENTERED = time.monotonic()


@options_from(SearchSettings)
def search(
    settings: SearchSettings,
    *,
    seeds: Annotated[
        int, Opt(min=1, help="Search so many times, with seeds one after the other, and say how far results differ.")
    ] = 1,
    prior_report: Annotated[
        bool, Opt("--prior-report", help="Say at the end what each source of configurations was worth.")
    ] = False,
    as_json: Annotated[bool, Opt("--json", help="One JSON object per line, for machines.")] = False,
) -> None:
    """Search a data set for its best few-shot learner; the same command again continues it."""
    from autometa.data import catalog
    from autometa.space.files import load_space

    # What is easily wrong is told at once, not when Ray has started and stopped.
    if not catalog.is_folder(settings.dataset):
        catalog.source(settings.dataset)
    if settings.space:
        assert isinstance(settings.space, str)  # as the command line gives it
        load_space(settings.space)
    if not as_json and sys.stderr.isatty():
        print("starting …", file=sys.stderr, flush=True)
    gc.disable()  # looking for garbage among what is imported takes a tenth of the time, and there is none
    from autometa.orchestrator.cluster import Cluster

    # Its processes come up while the rest is imported.
    with Cluster(settings.address, workers=settings.workers, on_lost=_end) as cluster:
        from autometa.cli.live import make_view
        from autometa.cli.replicates import replicates
        from autometa.study import search as study_search

        gc.enable()
        results: list[SearchResult] = []
        for one in replicates(settings, seeds):
            with make_view(as_json=as_json) as view:
                started = None if results else ENTERED
                results.append(study_search.search(**vars(one), cluster=cluster, on_event=view, started=started))
            _print_result(results[-1], as_json, settings.storage)
            if prior_report and not as_json:
                _print_prior_report(results[-1])
            if results[-1].interrupted:
                raise typer.Exit(130)
    if seeds > 1:
        _print_spread(results, as_json)


def _end(said: str) -> None:
    """End at once: what waits for Ray in other threads would wait until Ray ends the process itself, in a minute."""
    from rich.console import Console

    Console().show_cursor()
    print(f"error: {said}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(2)


def _print_result(result: SearchResult, as_json: bool, storage: str | None) -> None:
    if as_json:
        print_json({"event": "SearchEnded", **_facts(result)})
    elif result.interrupted:
        print(f"interrupted: {_count(result)}; nothing is lost, the same command continues it")
    elif result.winner is None:
        print(f"no winner: {_count(result)}; the same command continues it, with more --time-budget if it ran out")
    else:
        _print_winner(result, storage)


def _print_spread(results: list[SearchResult], as_json: bool) -> None:
    from autometa.cli.replicates import print_spread, spread

    if as_json:
        print_json({"event": "AllEnded", **spread(results)})
    else:
        print_spread(results)


def _print_prior_report(result: SearchResult) -> None:
    from autometa.cli.tables import new_table, print_table

    table = new_table("configurations from", "trials ended", "best in full, on validation")
    for origin, worth in sorted(result.origins.items()):
        table.add_row(origin, str(worth.trials), f"{100 * worth.best:.1f} %" if worth.best is not None else "none")
    print_table(table)


def _print_winner(result: SearchResult, storage: str | None) -> None:
    from autometa.cli.words import deployed_task, outlook, size, storage_option, summary
    from autometa.data import catalog

    won, name = result.winner, result.study.name
    assert won is not None
    trial, baselines = result.winning_trial, result.study.baselines
    print(f"\n{_count(result)}")
    if won.ensemble:
        print(f"winner: ensemble of trials {' and '.join(map(str, won.ensemble))}")
        for member in (t for t in result.trials if t.number in won.ensemble):
            print(f"  trial {member.number}: {summary(member.config.values)}")
    else:
        config = trial.config if trial else next(b.config for b in baselines if b.name == won.baseline)
        print(f"winner: {won.source}: {summary(config.values)}")
    if trial and {"parameters", "flops"} <= set(trial.facts):
        print(f"  {size(trial.facts)}")
    _print_accuracies(won, result)
    _print_baselines(won, result)
    if result.outlook:
        print(outlook(result.outlook, won.validation))
    if result.study.deployed:
        print(*deployed_task(result.study.deployed), sep="\n")
    print(f"archived in {result.archive}")
    where = storage_option(storage)
    print(f"model in {result.model}\n")
    print("next:")
    if catalog.is_folder(result.study.dataset):
        support = shlex.quote(result.study.dataset) if result.study.all_classes else "my_classes/"
        print(f"  autometa predict {result.model} --support {support} --query inbox/")
    print(f"  autometa evaluate {result.model} --episodes 2000")
    if result.study.budget.open and won.baseline is None:
        print(f"  autometa train {result.model} --budget 1h")
    print(f"  autometa export {name}{where} -o {name}.toml")
    print(f"  autometa train {name}.toml -o runs/models/{name}")
    print(f"  autometa dashboard{where}")
    if "***" in where:
        print("  (the password is not shown: set AUTOMETA_STORAGE to the whole URL first)")


def _print_accuracies(won: Confirmation, result: SearchResult) -> None:
    from autometa.cli.words import caution, certain, comparison, look

    print(f"  validation  {certain(won.validation, 'validation')}")
    if won.retrained:
        print(f"  other seeds {certain(won.retrained.validation, 'validation')}")
    if won.test:
        print(f"  meta-test   {certain(won.test, 'test')}")
        if won.retrained and won.retrained.test:
            print(f"  other seeds {certain(won.retrained.test, 'test')}")
        note = caution(won.test, result.study.episodes.way, "test")
        print(
            *([f"  {note}"] if note else []), f"  {look((won.retrained and won.retrained.test) or won.test)}", sep="\n"
        )
    chance = 100 * result.study.episodes.chance
    chosen = f", chosen on {won.selection.episodes} others" if won.selection else ""
    print(f"  chance {chance:.1f} %; validation is of {won.validation.episodes} fresh episodes{chosen}")
    for found in result.comparisons:
        print(f"  {comparison(found)}")
    _print_looks(result.study)


def _print_baselines(won: Confirmation, result: SearchResult) -> None:
    """The winner among what it has to beat, and in plain words whether it does."""
    from autometa.cli.tables import new_table, print_table
    from autometa.cli.words import for_new_classes, percent
    from autometa.records import source_of
    from autometa.study.confirm import unbeaten

    study, trial = result.study, result.winning_trial
    if not study.baselines:
        return
    confirmed = {c.source: for_new_classes(c.validation) for c in study.confirmed}
    table = new_table("winner and baselines", "when searching", "on fresh episodes")
    if won.baseline is None:
        table.add_row(won.source, percent(trial.last.accuracy) if trial and trial.last else "–", confirmed[won.source])
    for baseline in study.baselines:
        source = source_of(baseline.name)
        table.add_row(source, percent(baseline.accuracy), confirmed.get(source, "–"))
    print_table(table)
    if won.baseline:
        print(f"no trial of this search beats {won.source}")
    for found in unbeaten(result.comparisons, study.baselines):
        ahead, half_width = 100 * found.ahead, 100 * found.half_width
        print(f"the winner does not beat {found.other} ({ahead:+.1f} ± {half_width:.1f})")


def _print_looks(study: StudyRecord) -> None:
    """Each winner that the study was extended to, since the best of several looks is better than it is."""
    tested = [c for c in study.confirmed if c.test]
    if len(tested) < 2:
        return
    from autometa.cli.words import for_new_classes

    print(f"  {len(tested)} winners of this study were measured on the same test episodes:")
    for c in tested:
        assert c.test is not None
        print(f"    {c.source}  {for_new_classes(c.test)}")


def _count(result: SearchResult) -> str:
    states = [trial.state for trial in result.trials]
    parts = [f"{states.count(state)} {state}" for state in ("complete", "pruned", "fail") if state in states]
    rest = f", {result.missing} wait for more time" if result.missing else ""
    return f"study {result.study.name}: {len(states)} trials ended ({', '.join(parts) or 'none'}){rest}"


def _facts(result: SearchResult) -> dict[str, Any]:
    return {
        "study": result.study.model_dump(mode="json"),
        "interrupted": result.interrupted,
        "winner": result.winner.model_dump() if result.winner else None,
        "winning_trial": result.winning_trial.model_dump() if result.winning_trial else None,
        "comparisons": [{**c.model_dump(), "distinguishable": c.is_distinguishable} for c in result.comparisons],
        "looks": [look.model_dump(mode="json", exclude_none=True) for look in result.study.looks],
        "trials": len(result.trials),
        "missing": result.missing,
        "origins": {origin: vars(worth) for origin, worth in result.origins.items()},
        "outlook": vars(result.outlook) if result.outlook else None,
        "model": str(result.model) if result.model else None,
        "archive": str(result.archive) if result.archive else None,
    }
