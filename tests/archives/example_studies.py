"""Two example studies that several tests write to archives: one of autometa's own, and one of losses by others."""

from __future__ import annotations

import math

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.records import (
    Accuracy,
    Budget,
    Confirmation,
    EpisodeSpec,
    RungReport,
    StudyRecord,
    TrialConfig,
    TrialRecord,
)

SCORE = Accuracy(mean=0.61, half_width=0.02, episodes=100, seed=3)
STUDY = StudyRecord(
    name="digits-5w1s",
    dataset="digits",
    dataset_fingerprint="ab",
    episodes=EpisodeSpec(way=4, shot=2, query=7),
    space="few_shot",
    space_version="12345678",
    budget=Budget(steps=30, teraflops=0.5),
    seed=6,
    pruner="halving",
    confirmed=[Confirmation(trial=1, validation=SCORE)],
)
TRIALS = [
    TrialRecord(
        number=1,
        state="pruned",
        config=TrialConfig(values={"learner": "maml", "maml.first_order": True, "maml.inner_lr": 0.25}),
        curve=[RungReport(rung=2, accuracy=SCORE, steps=12, seconds=3.5)],
    ),
    TrialRecord(number=4, state="fail", config=TrialConfig(values={}), reason="diverged: loss is nan"),
]

LOSSES = PastStudy(
    name="losses",
    trials=(
        PastTrial(
            {"optimizer": "sgd", "rate": 0.25, "layers": 3, "nesterov": True, "note": "a\u2028b"},
            (PastReport(1, 14.5, 2.5), PastReport(3, -2.25, 7.0, 0.125)),
            "complete",
            4,
        ),
        PastTrial({"optimizer": "adam", "rate": 1.0}, (PastReport(2, 1e6),), "pruned", 5),
        PastTrial({"optimizer": "adam", "rate": 2}, (), "fail", 9),
    ),
    direction="minimize",
    ranges={
        "rate": '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.1, "high": 2.0, "log": true}}'
    },
    features={"log_images": 6.5, "pixel_5_shot": math.nan},
    dataset="letters",
    origin="somewhere",
)
