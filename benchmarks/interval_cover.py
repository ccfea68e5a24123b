"""How often a 95 % interval of an accuracy holds the accuracy on new classes: simulated, where the truth is known.

    python benchmarks/interval_cover.py
    python benchmarks/interval_cover.py --worlds ordinary --classes 8 20 --repeats 200

A world is a population of classes in feature space: a centre each, and a spread of its own around it. A split is C
classes drawn from it with 100 images each, and a model is the nearest class mean, as in prototypical networks. Class
effects, confusions of pairs, images that are in many episodes and the drawing of episodes all follow from that; none is
put in by a formula that an estimator could share. Each repetition draws a split and 600 episodes of 5 classes with 15
queries, and asks whether each interval holds the mean over the whole population.

Three more rows have something else to hold: training seeds (each turns feature space a little), the difference between
two models, and families of four classes (quarter turns) with a centre near each other's.

The spread between classes is realistic: sets of 20 CIFAR-100 classes, by nearest class mean on 32 principal components
of their pixels, differ by 3.0 points (standard deviation, 5-shot), and of 8 by 5.0. Here it is 2 to 5 and 4 to 8.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from end_to_end import RESULTS, machine

from autometa.learning import intervals
from autometa.learning.scores import Scores

FILE = RESULTS / "interval_cover.json"
WAY, QUERY, EPISODES, IMAGES, TURNS = 5, 15, 600, 100, 4


@dataclass(frozen=True)
class World:
    """Centres are N(0, 1) in `size` dimensions, images around one N(centre, (noise · e^(uneven · N(0, 1)))²)."""

    size: int
    noise: float
    uneven: float


WORLDS = {
    "ordinary": World(16, 1.6, 0.25),
    "confusable": World(4, 0.8, 0.3),  # few dimensions: some pairs of classes lie on each other
    "easy": World(16, 0.8, 0.3),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--classes", nargs="+", type=int, default=[5, 8, 16, 20, 64])
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.is_file() else []
    for row in measured(arguments.worlds, arguments.classes, arguments.repeats):
        print(json.dumps(row), flush=True)
        key = [row[name] for name in ("of", "world", "shot", "classes")]
        rows = [*(r for r in rows if [r[n] for n in ("of", "world", "shot", "classes")] != key), row]
        FILE.write_text(json.dumps({**machine(), **{k: asdict(w) for k, w in WORLDS.items()}, "rows": rows}, indent=1))


def measured(worlds: list[str], classes: list[int], repeats: int) -> Iterator[dict]:
    for name in worlds:
        for shot in (1, 5):
            true = truth(WORLDS[name], shot)
            for count in classes:
                yield row("classes", name, shot, count, repeats, cover(WORLDS[name], shot, count, true, repeats))
    if "ordinary" in worlds:
        for count in (8, 20):
            yield row("seeds", "ordinary", 5, count, repeats, cover_of_seeds(WORLDS["ordinary"], count, repeats))
            yield row(
                "difference", "ordinary", 5, count, repeats, cover_of_difference(WORLDS["ordinary"], count, repeats)
            )
        yield row("families", "ordinary", 5, 80, repeats, cover_of_families(WORLDS["ordinary"], 80, repeats))


def row(of: str, world: str, shot: int, classes: int, repeats: int, found: dict) -> dict:
    return {"of": of, "world": world, "shot": shot, "classes": classes, "repeats": repeats, **found}


def cover(world: World, shot: int, classes: int, true: float, repeats: int, episodes: int = EPISODES) -> dict:
    """Of the interval over classes and episodes, of ± its longer side, which is printed, and of simpler ones."""
    held = Held(true)
    for rng in generators(repeats, shot, classes):
        scores = episodes_of(split(world, classes, rng), shot, rng, episodes)
        held.add(scores)
    return held.facts()


class Held:
    """Counts how often each interval held the truth, and how wide they were."""

    def __init__(self, true: float) -> None:
        self.true, self.means, self.rows = true, [], []

    def add(self, *several: Scores) -> None:
        found = intervals.accuracy_of_seeds(several, 0)
        ends, off = found.over_classes, abs(found.mean - self.true)
        printed = max(ends.high - found.mean, found.mean - ends.low)
        plain = intervals.over_classes(several[0]).half_width
        self.means.append(found.mean)
        held = (ends.low <= self.true <= ends.high, off <= printed, off <= plain, off <= found.half_width)
        self.rows.append((*held, (ends.high - ends.low) / 2, printed))

    def facts(self) -> dict:
        between, printed, plain, over_episodes, width, printed_width = np.mean(self.rows, axis=0)
        return {
            "truth": round(self.true, 4),
            "cover": round(between, 3),
            "cover_of_printed": round(printed, 3),
            "cover_without_logit": round(plain, 3),
            "cover_over_episodes_alone": round(over_episodes, 3),
            "mean_half_width": round(100 * width, 2),
            "mean_printed_half_width": round(100 * printed_width, 2),
            "true_standard_deviation": round(100 * float(np.std(self.means)), 2),
        }


def cover_of_seeds(world: World, classes: int, repeats: int, seeds: int = 3) -> dict:
    """Of the interval over three training seeds, classes and episodes; each seed turns feature space."""
    true = float(np.mean([truth(world, 5, turn(world, rng), rounds=3) for rng in generators(60, 77)]))
    held = Held(true)
    for rng in generators(repeats, 3, classes):
        images, draw = split(world, classes, rng), int(rng.integers(2**31))
        held.add(*(episodes_of(images @ turn(world, rng), 5, np.random.default_rng(draw)) for _ in range(seeds)))
    return held.facts()


def cover_of_difference(world: World, classes: int, repeats: int) -> dict:
    """Of the interval of the difference between two models on common episodes."""
    one, other = (turn(world, np.random.default_rng(seed)) for seed in (1, 2))
    true = truth(world, 5, one) - truth(world, 5, other)
    rows = []
    for rng in generators(repeats, 4, classes):
        images, draw = split(world, classes, rng), int(rng.integers(2**31))
        both = [episodes_of(images @ model, 5, np.random.default_rng(draw)) for model in (one, other)]
        ahead, half_width = intervals.difference(*both)
        rows.append((abs(ahead - true) <= half_width, half_width))
    held, width = np.mean(rows, axis=0)
    return {"truth": round(true, 4), "cover": round(held, 3), "mean_half_width": round(100 * width, 2)}


def cover_of_families(world: World, classes: int, repeats: int) -> dict:
    """Of the interval for classes in families of four, and of one that takes all classes for independent."""
    families = np.repeat(np.arange(classes // TURNS), TURNS)
    many = np.repeat(np.arange(100), TURNS)
    drawn = [episodes_of(family_split(world, many, rng), 5, rng) for rng in generators(60, 99)]
    held, blind = Held(float(np.mean([scores.accuracies.mean() for scores in drawn]))), 0
    for rng in generators(repeats, 5, classes):
        scores = episodes_of(family_split(world, families, rng), 5, rng)
        held.add(Scores(scores.classes, scores.answers, families))
        ends = intervals.accuracy(scores, 0).over_classes
        blind += ends.low <= held.true <= ends.high
    return {**held.facts(), "cover_as_if_independent": round(blind / repeats, 3)}


def truth(world: World, shot: int, model: np.ndarray | None = None, rounds: int = 60) -> float:
    """The mean accuracy over the population: of 200 new classes, `rounds` times, known to 0.2 points."""
    turned = np.eye(world.size) if model is None else model
    drawn = (episodes_of(split(world, 200, rng) @ turned, shot, rng, 300) for rng in generators(rounds, 99))
    return float(np.mean([scores.accuracies.mean() for scores in drawn]))


def turn(world: World, rng: np.random.Generator) -> np.ndarray:
    """What a training seed makes of feature space."""
    return np.eye(world.size) + 0.3 * rng.normal(size=(world.size, world.size)) / world.size**0.5


def split(world: World, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Features [classes, IMAGES, size] of new classes."""
    return images_around(rng.normal(size=(classes, world.size)), world, rng)


def family_split(world: World, families: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As `split`, of classes whose families [classes] share three quarters of a centre's variance."""
    shared = rng.normal(size=(families.max() + 1, world.size))[families]
    return images_around(0.75**0.5 * shared + 0.5 * rng.normal(size=shared.shape), world, rng)


def images_around(centres: np.ndarray, world: World, rng: np.random.Generator) -> np.ndarray:
    spread = world.noise * np.exp(world.uneven * rng.normal(size=len(centres)))
    return centres[:, None] + spread[:, None, None] * rng.normal(size=(len(centres), IMAGES, world.size))


def episodes_of(images: np.ndarray, shot: int, rng: np.random.Generator, count: int = EPISODES) -> Scores:
    """Nearest class mean on episodes drawn from features [C, IMAGES, size]."""
    images = images.astype(np.float32)
    classes = rng.random((count, len(images)), np.float32).argsort(1)[:, :WAY]
    chosen = rng.random((count, WAY, IMAGES), np.float32).argpartition(shot + QUERY, axis=2)[..., : shot + QUERY]
    features = images[classes[..., None], chosen]  # (E, N, K + Q, size)
    means, queries = features[:, :, :shot].mean(2), features[:, :, shot:]
    inner = queries.reshape(count, WAY * QUERY, -1) @ means.swapaxes(1, 2)  # (E, N·Q, N)
    nearest = (2 * inner - (means**2).sum(-1)[:, None]).argmax(-1).reshape(count, WAY, QUERY)
    cells = np.arange(count * WAY).reshape(count, WAY, 1) * WAY + nearest
    answers = np.bincount(cells.ravel(), minlength=count * WAY * WAY).reshape(count, WAY, WAY)
    return Scores(classes, answers, np.arange(len(images)))


def generators(count: int, *key: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng((*key, index)) for index in range(count))


if __name__ == "__main__":
    main()
