"""Made studies that several tests of priors share."""

from __future__ import annotations

import math

from autometa.past import PastReport, PastStudy, PastTrial

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
