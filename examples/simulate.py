"""Eight nodes, of which a quarter trains four times slower, with three learning rates."""

from sims.experiment import check
from sims.laboratory import conduct

for rate in (0.01, 0.03, 0.1):
    described = {
        "nodes": 8,
        "seconds": 4.0,
        "options": {"split": "shards", "classes": 3, "lr": rate},
        "devices": [{"share": 0.25, "slowdown": 4.0}],
    }
    outcome = conduct(check(described, {}, "this program"), quiet=True)
    last = outcome.report
    print(
        f"lr {rate}: mean {last.accuracy_mean:.3f}, worst {last.accuracy_min:.3f}, {last.trace[:8]}"
    )
