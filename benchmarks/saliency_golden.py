"""python -m benchmarks.saliency_golden ../shared: what PySODMetrics makes of the tests' maps.

It needs an environment of its own, for it holds NumPy back:

    python -m venv /tmp/sod && /tmp/sod/bin/pip install pysodmetrics==1.6.2 pillow
    /tmp/sod/bin/python -m benchmarks.saliency_golden ../shared

Its maps are not stretched (normalize=False); its curves run from the highest threshold down.
"""

import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from py_sod_metrics import MAE, Emeasure, Fmeasure, Smeasure, WeightedFmeasure

from tests.saliency_golden import GOLDEN, cases, drawn, subset


def measure(pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, object]:
    f, mae, s, e, weighted = Fmeasure(), MAE(), Smeasure(), Emeasure(), WeightedFmeasure()
    for _, values, truth in pairs:
        for metric in (f, mae, s, e, weighted):
            metric.step(values / 255, truth, normalize=False)
    f_values, curves = f.get_results()["fm"], f.get_results()["pr"]
    return {
        "mae": float(mae.get_results()["mae"]),
        "s_measure": float(s.get_results()["sm"]),
        "f_weighted": float(weighted.get_results()["wfm"]),
        "f_adaptive": float(f_values["adp"]),
        "e_adaptive": float(e.get_results()["em"]["adp"]),
        "f_curve": f_values["curve"][::-1][::15].tolist(),
        "precision": curves["p"][::-1][::15].tolist(),
        "recall": curves["r"][::-1][::15].tolist(),
        "e_curve": e.get_results()["em"]["curve"][::-1][::15].tolist(),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    golden = {name: measure([(name, values, truth)]) for name, values, truth in cases()}
    golden["drawn"] = measure(drawn())
    golden["ecssd subset"] = measure(subset(Path(sys.argv[1])))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
