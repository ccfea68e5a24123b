"""Models that are trained further: from where they stood, as if nothing had stopped, and into a model again."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from autometa.errors import AutometaError
from autometa.learning.checkpoint_facts import BEFORE, ENSEMBLE_FACTS, FINAL, is_ensemble, read_facts
from autometa.records import Budget
from autometa.trial import train_further as module
from autometa.trial.baselines import BUDGET
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.measured import seed_folder
from autometa.trial.model_files import EnsembleFacts, copy_member, copy_model, job_of, members_of
from autometa.trial.model_recipes import recipes_of
from autometa.trial.run import begin, run
from autometa.trial.segment import Segment
from autometa.trial.train_further import train_further
from tests.trial.test_segment import bits, job, ran

MORE = Budget(steps=40)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a search hands over: a cooled model, an ensemble of two, a model of a fixed budget, and a baseline."""
    folder = tmp_path_factory.mktemp("models")
    finals = []
    for seed in (3, 9):
        candidate = job(folder / str(seed), Budget(seconds=0.05, open=True)).model_copy(update={"seed": seed})
        ran(Segment(job=candidate, until=1))
        ran(Segment(job=candidate, finish_by=time.time() + 0.5))
        finals.append(folder / str(seed) / FINAL)
    copy_model(finals[0], folder / "cooled")
    for number, final in enumerate(finals):
        copy_member(final, folder / "both" / f"member-{number}")
    both = EnsembleFacts(members=["member-0", "member-1"], temperatures=[1.0, 2.0], weights=[0.5, 0.5])
    (folder / "both" / ENSEMBLE_FACTS).write_text(both.model_dump_json())
    run(job(folder / "fixed", Budget(steps=64, rungs=2), schedule="cosine"))
    run(job(folder / "baseline", BUDGET))
    return {name: folder / name for name in ("cooled", "both", "fixed", "baseline")}


def further(model: Path, out: Path, **how: Any) -> Any:
    return train_further(model, out, **{"budget": MORE, "use_gpu": False} | how)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stopped_at(count: int) -> Any:
    """A callback that is Ctrl-C after so many steps."""
    steps = iter(range(count))

    def on_step(*_: object) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt

    return on_step


def test_a_model_goes_on_from_before_its_cool_down_and_is_cooled_again(models: dict[str, Path], tmp_path: Path) -> None:
    before = content(models["cooled"])
    start = read_facts(models["cooled"] / BEFORE)
    parts: list[float] = []
    trained = further(models["cooled"], tmp_path, on_step=lambda step, part, _: parts.append(part))
    assert content(models["cooled"]) == before
    (record,) = trained.records
    assert record.last.steps == start["steps"] + 40
    assert record.last.cooled
    assert [r.rung for r in record.curve] == list(dict.fromkeys(r.rung for r in record.curve)), "rungs go on"
    assert record.curve[0].steps == start["curve"][0]["steps"]
    state = read_facts(tmp_path / BEFORE)
    assert state["steps"] == start["steps"] + 32, "a fifth is the cool-down"
    assert state["cooling"] is None
    assert parts == pytest.approx([step / 40 for step in range(1, 41)])
    measured = evaluate_checkpoint(tmp_path, split="val", episodes=30, use_gpu=False)
    assert measured.mean == pytest.approx(trained.validation.mean)
    assert trained.before == evaluate_checkpoint(models["cooled"], split="val", episodes=30, use_gpu=False)

    done = content(tmp_path)
    assert further(models["cooled"], tmp_path, on_step=stopped_at(0)) == trained, "nothing is trained twice"
    assert content(tmp_path) == done
    again = further(tmp_path, tmp_path / "more", budget=Budget(seconds=0.3))
    assert read_facts(tmp_path / "more" / BEFORE)["steps"] > state["steps"]
    assert again.records[0].last.seconds == pytest.approx(state["seconds"] + 0.3, abs=0.1)


@pytest.mark.parametrize("steps", [13, 37])  # at a constant rate, and in the cool-down
@pytest.mark.parametrize("name", ["cooled", "fixed"])
def test_it_goes_on_after_an_interruption_to_the_bit(
    models: dict[str, Path], tmp_path: Path, name: str, steps: int
) -> None:
    further(models[name], tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        further(models[name], tmp_path / "parts", on_step=stopped_at(steps))
    taken: list[int] = []
    further(models[name], tmp_path / "parts", on_step=lambda step, part, _: taken.append(step))
    assert len(taken) <= 40 - steps + 4, "it is kept ten times"
    one, other = bits(tmp_path / "whole"), bits(tmp_path / "parts")
    assert all(one[tensor].equal(other[tensor]) for tensor in one)
    assert content(tmp_path / "whole").keys() == content(tmp_path / "parts").keys(), "nothing is left behind"


def test_a_model_of_a_fixed_budget_warms_up_and_goes_on_at_its_full_rate(
    models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        further(models["fixed"], tmp_path, on_step=stopped_at(0))
    begun = begin(job_of(tmp_path / "training" / "0"))
    assert begun.steps == 64
    assert begun.rate < 0.1 * 1e-3
    assert begun.state.progress > 0.9, "what is annealed over training stays annealed"
    (record,) = further(models["fixed"], tmp_path).records
    assert record.curve[0].steps == 64, "what it began with"
    assert record.curve[0].accuracy.episodes == 30
    assert record.last.steps == 104
    state = begin(job_of(tmp_path / BEFORE).model_copy(update={"folder": str(tmp_path / BEFORE)}))
    assert state.rate == pytest.approx(1e-3)
    (recipe,) = recipes_of(tmp_path)
    assert recipe.config["schedule"] == "trapezoid"
    assert recipe.budget.steps == 104
    assert recipe.provenance["trained_further"] == {"steps": 40}
    assert recipe.dataset_identity.fingerprint == job_of(tmp_path).dataset.identity.fingerprint
    assert not recipe.dataset_identity.classes, "the name says them"


def test_members_share_the_budget_and_are_put_together_again(models: dict[str, Path], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    trained = further(models["both"], tmp_path, on_member=lambda *which: told.append(which))
    assert told == [(1, 2), (2, 2)]
    before = {job_of(m).seed: read_facts(m / BEFORE)["steps"] for m in members_of(models["both"])}
    members = members_of(tmp_path)
    assert is_ensemble(tmp_path) == (len(members) == 2)
    for member, record in zip(members, trained.records, strict=True):
        assert record.last.steps == before[job_of(member).seed] + 20
    assert len(recipes_of(tmp_path)) == len(members)
    assert evaluate_checkpoint(tmp_path, split="val", episodes=30, use_gpu=False).mean == trained.validation.mean


def test_a_model_can_be_written_over(models: dict[str, Path], tmp_path: Path) -> None:
    copy_model(models["cooled"], tmp_path)
    first = read_facts(tmp_path / BEFORE)["steps"]
    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            further(tmp_path, tmp_path, on_step=stopped_at(20))
        further(tmp_path, tmp_path)
        assert read_facts(tmp_path / BEFORE)["steps"] == first + 32 * times
    assert not (tmp_path / "training").exists()


def test_a_model_that_was_finished_but_not_handed_over_is(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(out: Path) -> None:
        raise KeyboardInterrupt

    copy_model(models["cooled"], tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_hand_over", killed)
        with pytest.raises(KeyboardInterrupt):
            further(tmp_path, tmp_path)
    trained = further(tmp_path, tmp_path, on_step=stopped_at(0))
    assert trained.before is None
    assert trained.records[0].last.steps == read_facts(tmp_path / BEFORE)["steps"] + 8


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("baseline", {}, "a baseline, which is not trained"),
        ("nowhere", {}, "no checkpoint there"),
        ("cooled", {"budget": Budget(steps=3, seconds=2)}, "some steps, or for some seconds"),
        ("cooled", {"budget": Budget(steps=0)}, "some steps, or for some seconds"),
        ("cooled", {"pretrain_dataset": "elsewhere"}, "--pretrain-dataset elsewhere"),
        ("cooled", {"dataset": "nowhere/photos"}, "nowhere/photos"),
    ],
)
def test_what_cannot_go_on_is_one_line_and_nothing_is_written(
    models: dict[str, Path], tmp_path: Path, name: str, how: dict[str, Any], says: str
) -> None:
    with pytest.raises(AutometaError, match=says) as error:
        further(models.get(name, tmp_path / name), tmp_path / "out", **how)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_gets_worse_is_given_back_as_it_was_best(tmp_path: Path) -> None:
    # Some steps of such a weight decay do no harm; many leave nothing of the weights.
    given = job(
        tmp_path / "given", Budget(steps=1, rungs=1), outer_lr=0.1, optimizer="sgd", weight_decay=9.0, norm="none"
    )
    run(given)
    (record,) = further(tmp_path / "given", tmp_path / "out", budget=Budget(steps=300)).records
    assert record.last is not None
    assert record.last.best_rung is not None
    assert record.last.steps < 100
    before, after = (
        evaluate_checkpoint(tmp_path / name, split="val", episodes=30, use_gpu=False) for name in ("given", "out")
    )
    assert after.mean >= before.mean


def test_no_model_and_no_training_is_written_over(models: dict[str, Path], tmp_path: Path) -> None:
    copy_model(models["fixed"], tmp_path / "taken")
    with pytest.raises(AutometaError, match="holds another model; choose another folder"):
        further(models["cooled"], tmp_path / "taken")
    copy_model(models["fixed"], seed_folder(tmp_path / "seeds", 4))
    with pytest.raises(AutometaError, match="one model a seed"):
        further(tmp_path / "seeds", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        further(models["cooled"], tmp_path / "begun", on_step=stopped_at(5))
    with pytest.raises(AutometaError, match="the training of another model or budget"):
        further(models["cooled"], tmp_path / "begun", budget=Budget(steps=41))
