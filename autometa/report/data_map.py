"""The known tasks on a map, with one to place: the facts as a frame, then the figure.

It does not know how near two tasks are (`tasks/similarity.py` does), nor where a page is kept (`page.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from autometa.past import PastStudy
from autometa.tasks import similarity
from autometa.tasks.similarity import SCALES

_NAMED = 6  # differences in a hover text, before all features
_TOO_NEAR = 0.12  # of the map's longer side: the length of a name


@dataclass(frozen=True)
class DataMap:
    """Where tasks lie.

    Attributes:
        places: one row a task, the one to place first, at (0, 0): `task`, `studies`, `x`, `y`, `distance`,
            `differs` in words, and its features by name.
        kept: share of the squared distances that two dimensions keep, in [0, 1].
    """

    places: pd.DataFrame
    kept: float


def data_map(name: str, target: Mapping[str, float], studies: Sequence[PastStudy]) -> DataMap:
    """Place a task among those of past studies.

    Studies of one task share a place, and those with no feature to compare have none.

    Args:
        name: the task's, for people.
        target: from `similarity.coordinates`.
    """
    tasks = list(_tasks(target, studies))
    points = [target, *(similarity.coordinates_of(found[0]) for found in tasks)]
    fitted = similarity.scales(points)
    far = _all_distances(points, fitted)
    xy, kept = classical_scaling(far)
    places = pd.DataFrame(
        {
            "task": [name, *(task_name(found[0]) for found in tasks)],
            "studies": ["", *(", ".join(study.name for study in found) for found in tasks)],
            "x": xy[:, 0] - xy[0, 0],
            "y": xy[:, 1] - xy[0, 1],
            "distance": far[0],
            "differs": [_differences(target, point, fitted) for point in points],
        }
    )
    return DataMap(places.join(pd.DataFrame(points, columns=list(SCALES))), kept)


def classical_scaling(distances: np.ndarray) -> tuple[np.ndarray, float]:
    """Places [n, 2] whose distances come nearest to [n, n] (Torgerson 1952), and the share of the squares they keep.

    The eigenvectors of the doubly centred squares, times the roots of their eigenvalues; the entry of largest size
    in each is positive, so that the same distances give the same map.
    """
    count = len(distances)
    centring = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(-centring @ distances**2 @ centring / 2)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]  # greatest first; below zero is not Euclidean
    signs = np.sign(vectors[np.abs(vectors).argmax(0), range(count)])
    xy = np.zeros((count, 2))
    xy[:, : min(2, count)] = (vectors * signs * np.sqrt(values))[:, :2]
    return xy, float(values[:2].sum() / (values.sum() or 1.0))


def figure(made: DataMap) -> go.Figure:
    """The map: a star for the task to place, a dot for each known one, coloured by its distance."""
    places = made.places.assign(label=labels(made.places))
    target, known = places.iloc[:1], places.iloc[1:]
    edge = {"width": 1, "color": "white"}
    colour = {"color": known.distance, "colorscale": "Viridis_r", "cmin": 0, "cmax": known.distance.max()}
    bar = {"title": {"text": "distance"}, "thickness": 14}
    shown = go.Figure()
    shown.add_scatter(
        **_marks(known), textposition="top center", marker={"size": 16, "line": edge, "colorbar": bar, **colour}
    )
    shown.add_scatter(
        **_marks(target),
        textposition="bottom center",
        marker={"size": 22, "line": edge, "symbol": "star", "color": "#d62728"},
    )
    return shown.update_layout(**_layout(made))


def labels(places: pd.DataFrame) -> list[str]:
    """The names of the dots; where some lie too near for a name each, all are named at the uppermost, or the star."""
    reach = _TOO_NEAR * max(np.ptp(places.x), np.ptp(places.y))
    xy = places[["x", "y"]].to_numpy()
    named: dict[int, list[str]] = {}
    for row in [0, *(1 + np.argsort(-xy[1:, 1], kind="stable")).tolist()]:
        near = next((other for other in named if np.hypot(*(xy[row] - xy[other])) <= reach), row)
        named.setdefault(near, []).append(escape(places.task[row]))
    bold = {row: [f"<b>{first}</b>", *rest] for row, (first, *rest) in named.items()}
    return ["<br>".join(bold.get(row, [])) for row in range(len(places))]


def task_name(study: PastStudy) -> str:
    """Data set and episodes, such as `cifar-fs 5w5s`; the study's name where the data set has none."""
    if not study.dataset:
        return study.name
    return f"{study.dataset} {study.episodes}" if study.episodes else study.dataset


def _tasks(target: Mapping[str, float], studies: Sequence[PastStudy]) -> Iterator[list[PastStudy]]:
    """The studies that share a feature with the target, those of one task together."""
    tasks: dict[tuple[object, ...], list[PastStudy]] = {}
    far = similarity.distances(target, studies)
    for study in studies:
        if not np.isnan(far[study.name]):
            place = similarity.coordinates_of(study)
            # Rounded, since the same images give other last digits on another machine.
            tasks.setdefault((study.dataset, *((f, round(a, 3)) for f, a in place.items())), []).append(study)
    yield from tasks.values()


def _all_distances(points: Sequence[Mapping[str, float]], fitted: Mapping[str, float]) -> np.ndarray:
    """Distances [n, n]; between two that share no feature, the way by the first, which shares one with each."""
    far = np.array([[similarity.distance(a, b, fitted) for b in points] for a in points])
    return np.where(np.isnan(far), far[0] + far[:, :1], far)


def _differences(target: Mapping[str, float], point: Mapping[str, float], fitted: Mapping[str, float]) -> str:
    found = [str(d) for d in similarity.differences(target, point, fitted) if d.notable > 0]
    return "; ".join(found[:_NAMED])


def _marks(places: pd.DataFrame) -> dict[str, Any]:
    return {
        "x": places.x,
        "y": places.y,
        "mode": "markers+text",
        "text": places.label,
        "hovertext": [_hover(row) for row in places.to_dict("records")],
        "hoverinfo": "text",
        "showlegend": False,
    }


def _hover(row: Mapping[Any, Any]) -> str:
    known = [(scale, row[name]) for name, scale in SCALES.items() if not np.isnan(row[name])]
    facts = [f"{scale.label}: {scale.shown(value)}" for scale, value in known]
    heads = [f"<b>{escape(row['task'])}</b>"]
    if row["studies"]:
        heads += [escape(row["studies"]), f"distance {row['distance']:.2f}", *row["differs"].split("; "), ""]
    return "<br>".join([*heads, *facts])


def _layout(made: DataMap) -> dict[str, Any]:
    places = made.places
    known = len(places) - 1
    below = (
        "near is alike in its features, directions mean nothing; "
        f"classical scaling, which keeps {100 * made.kept:.0f} % of the squared distances"
    )
    room = 0.25 * max(np.ptp(places.x), np.ptp(places.y)) or 0.5  # for names, and where all lie on a line
    hidden = {"showticklabels": False, "zeroline": False, "showgrid": False}
    return {
        "title": {
            "text": f"{escape(places.task[0])} among {known} known task{'' if known == 1 else 's'}",
            "subtitle": {"text": below},
        },
        "xaxis": {**hidden, "range": [places.x.min() - room, places.x.max() + room]},
        "yaxis": {**hidden, "range": [places.y.min() - room, places.y.max() + room], "scaleanchor": "x"},
        "hoverlabel": {"align": "left"},
        "margin": {"t": 90, "b": 30, "l": 30, "r": 30},
        "template": "plotly_white",
    }
