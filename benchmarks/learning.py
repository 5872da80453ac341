"""Our learning against the published algorithms: accuracy, worst node, bytes.

    python benchmarks/learning.py [--quick] [--png FILE] [--json FILE] [--tasks TEXT] [--seeds N]
                                  [--only LABEL ...]

Every algorithm runs in `sims.Simulation` on the same swarm, links and data, and every byte is
counted the same way; see `contest.py` for the tasks and the contenders. CHOCO-SGD's consensus step
size is searched: all of a grid on the first seed, the best on all seeds; where data are skewed it
gets our drift correction, which is worth as much to it as to us. Ours at its default and AD-PSGD
run on all seeds as well, the others, for orientation, on the first; among them edge-choco, a CHOCO
of our own that keeps a copy for each link and talks to one neighbour at a time, which needs 1.7 to
4 times our bytes. Figures are means over the seeds; `worst` is the worst node of the worst seed.

`bytes` says how many times fewer than AD-PSGD in float32 (with the drift correction where data are
skewed). Bytes to accuracy: what a node has sent when the mean accuracy first reaches half a point
below the lower of the two finals, by linear interpolation.

Gates: within 1 point of AD-PSGD at 40 times fewer bytes where data are skewed, at 70 times fewer
elsewhere; the worst node within 2 points of the mean; bytes to accuracy at most half of CHOCO's;
logistic regression as good as D-PSGD's with 0.25 MB. Missing one is printed, and no error: this is
where we stand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.pool import Pool
from time import perf_counter

from contest import MAIN, OURS, TASKS, Contender, Job, Outcome, Point, Task, contenders, run

WORKERS = 2
SLACK = 0.005  # below the lower final, for bytes to accuracy
CONVEX_GATE = 0.25  # MB
SAME = 1.05  # times D-PSGD's suboptimality that counts as the same

COLOURS = {
    "all-reduce": "tab:green",
    "d-psgd": "tab:olive",
    "ad-psgd": "tab:blue",
    "el-oracle": "tab:purple",
    "push-sum": "tab:cyan",
    "noloco": "tab:pink",
    "choco": "tab:red",
    "edge-choco": "tab:orange",
}

OURS_DRAWN = {MAIN: "-", f"{OURS} 10% 3-bit": "--", f"{OURS} 2.5% 3-bit": ":"}

Results = dict[tuple[str, Contender], list[Outcome]]


def jobs_of(
    tasks: Sequence[Task], seeds: int, shorten: float, only: Sequence[str]
) -> tuple[list[Job], list[Job]]:
    """What runs anyhow; and the grids, on the first seed."""
    fixed, grid = [], []
    for task in tasks:
        rounds = round(task.rounds * shorten)
        for contender in contenders(task):
            if only and not contender.label.startswith(tuple(only)):
                continue
            if contender.family:
                grid.append(Job(task.name, contender, 0, rounds))
            else:
                repeats = seeds if contender.repeated else 1
                fixed += [Job(task.name, contender, seed, rounds) for seed in range(repeats)]
    return fixed, grid


def run_all(pool: Pool, jobs: Sequence[Job], results: Results, begun: float) -> None:
    """Run jobs on all workers."""
    for job in jobs:
        results.setdefault((job.task, job.contender), [])
    for done, (job, outcome) in enumerate(pool.imap(_run, jobs), 1):  # in order, as the seeds are
        results[job.task, job.contender].append(outcome)
        note = f"{perf_counter() - begun:5.0f} s  {done}/{len(jobs)}  {job.task}: "
        print(f"{note}{job.contender.label}", file=sys.stderr, flush=True)


def _run(job: Job) -> tuple[Job, Outcome]:
    return job, run(job)


def winners(results: Results, tasks: Iterable[Task]) -> dict[tuple[str, str], Contender]:
    """The best of each grid: by the final, since all have sent the same bytes."""
    best: dict[tuple[str, str], Contender] = {}
    for task in tasks:
        for (name, contender), outcomes in results.items():
            if name != task.name or not contender.family:
                continue
            key = name, contender.family
            score = _score(task, outcomes[0].last)
            if key not in best or score > _score(task, results[name, best[key]][0].last):
                best[key] = contender
    return best


def _score(task: Task, point: Point) -> float:
    return point.mean if task.metric == "accuracy" else -point.mean


# figures ------------------------------------------------------------------------------------------


def average(outcomes: Sequence[Outcome]) -> list[Point]:
    """The mean curve; worst of the worst."""
    count = len(outcomes)
    curves = zip(*(outcome.curve for outcome in outcomes), strict=True)
    return [
        Point(
            points[0].rounds,
            sum(point.megabytes for point in points) / count,
            sum(point.mean for point in points) / count,
            min(point.worst for point in points),
        )
        for points in curves
    ]


def megabytes_to(curve: Sequence[Point], target: float, sign: float = 1.0) -> float:
    """MB per node when the curve first reaches the target; infinite if never. `sign` is -1 where
    less is better."""
    before: Point | None = None
    for point in curve:
        if sign * point.mean >= sign * target:
            if before is None or point.mean == before.mean:
                return point.megabytes
            share = (target - before.mean) / (point.mean - before.mean)
            return before.megabytes + share * (point.megabytes - before.megabytes)
        before = point
    return float("inf")


def table(task: Task, curves: dict[str, list[Point]], results: Results) -> None:
    """Print one task."""
    reference = curves["ad-psgd + correction" if task.skewed else "ad-psgd"][-1]
    print(f"\n{task.name}, {task.nodes} nodes, {reference.rounds} rounds")
    print(f"{'':<48} {'mean':>7} {'worst':>7} {'MB/node':>9} {'bytes':>8} {'time':>6} seeds")
    for label, curve in curves.items():
        last = curve[-1]
        outcomes = next(found for (name, contender), found in results.items()
                        if (name, contender.label) == (task.name, label))  # fmt: skip
        seconds = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        lost = sum(outcome.lost for outcome in outcomes)
        print(
            f"{label:<48} {last.mean:7.2%} {last.worst:7.2%} {last.megabytes:9.3f} "
            f"{reference.megabytes / last.megabytes:7.1f}x {seconds:5.0f}s {len(outcomes)}"
            + (f"  ({lost} nodes ended in NaN)" if lost else "")
        )


def gates(
    task: Task, curves: dict[str, list[Point]], best: dict[tuple[str, str], Contender]
) -> None:
    """Print where the default stands."""
    mine = curves[MAIN]
    reference = curves["ad-psgd + correction" if task.skewed else "ad-psgd"][-1]
    last = mine[-1]
    behind = 100 * (reference.mean - last.mean)
    fewer = reference.megabytes / last.megabytes
    _gate(f"{behind:+.2f} points behind AD-PSGD", behind <= 1)
    _gate(f"{fewer:.1f} times fewer bytes, of {task.ratio:g}", fewer >= task.ratio)
    _gate(
        f"worst node {100 * (last.mean - last.worst):.2f} points below",
        last.mean - last.worst <= 0.02,
    )
    contender = best.get((task.name, "choco"))
    if contender is not None:
        other = curves[contender.label]
        target = min(last.mean, other[-1].mean) - SLACK
        here, there = megabytes_to(mine, target), megabytes_to(other, target)
        text = f"{target:.1%} after {here:.3f} MB, {contender.label} after {there:.3f} MB"
        _gate(f"{text}: {there / here:.2f} times", there >= 2 * here)


def _gate(text: str, met: bool) -> None:
    print(f"  {'met   ' if met else 'missed'}  {text}")


def convex_table(task: Task, curves: dict[str, list[Point]]) -> None:
    """Print the logistic regression."""
    target = SAME * curves["d-psgd"][-1].mean
    print(f"\n{task.name}, ring of {task.nodes}, {curves['d-psgd'][-1].rounds} rounds")
    print(f"{'':<48} {'f - f*':>9} {'MB/node':>9}   MB to D-PSGD's {target / SAME:.2e}")
    for label, curve in curves.items():
        needed = megabytes_to(curve, target, -1.0)
        print(f"{label:<48} {curve[-1].mean:9.2e} {curve[-1].megabytes:9.3f}   {needed:.3f}")
    mine = min(
        megabytes_to(curve, target, -1.0) for label, curve in curves.items() if "shared" in label
    )
    _gate(f"{mine:.3f} MB, of {CONVEX_GATE}", mine <= CONVEX_GATE)


def draw(file: str, panels: dict[str, dict[Contender, list[Point]]]) -> None:
    """Accuracy against bytes, one panel a task; a colour is the same algorithm everywhere."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        -(-len(panels) // 2), 2, figsize=(10, 8), constrained_layout=True, squeeze=False
    )
    shown: dict[str, object] = {}
    for axis, (name, curves) in zip(grid.flat, panels.items(), strict=False):
        for contender, curve in curves.items():
            label = contender.label if contender.algorithm == OURS else contender.algorithm
            style = (
                {"linewidth": 2.2, "color": "black", "linestyle": OURS_DRAWN[label]}
                if contender.algorithm == OURS
                else {"linewidth": 1.3, "color": COLOURS[contender.algorithm]}
            )
            megabytes = [point.megabytes for point in curve]
            (line,) = axis.plot(megabytes, [100 * point.mean for point in curve], **style)
            shown.setdefault(label, line)
        axis.set(xscale="log", xlabel="MB sent per node", ylabel="mean accuracy, %", title=name)
        axis.grid(alpha=0.3)
    for axis in grid.flat[len(panels) :]:
        axis.remove()
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(file, dpi=130)


def drawn(task: Task, results: Results, best: dict[tuple[str, str], Contender]) -> list[Contender]:
    """What belongs in a panel: each algorithm once at its best, and three settings of ours."""
    found = [contender for name, contender in results if name == task.name]
    corrected = {contender.algorithm for contender in found if contender.drift}
    return [
        contender
        for contender in found
        if contender.label in OURS_DRAWN
        or contender == best.get((task.name, contender.family))
        or (
            (contender.algorithm in COLOURS and not contender.family)
            and (contender.drift or contender.algorithm not in corrected)
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed, half the rounds")
    parser.add_argument("--png", metavar="FILE", help="draw accuracy against bytes")
    parser.add_argument("--json", metavar="FILE", help="write all curves")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], help="labels that begin like this")
    arguments = parser.parse_args()
    if arguments.png and find_spec("matplotlib") is None:
        parser.error("--png needs matplotlib: pip install 'gossip-learning[plots]'")
    seeds, shorten = (1, 0.5) if arguments.quick else (arguments.seeds, 1.0)
    tasks = [task for task in TASKS.values() if arguments.tasks in task.name]
    fixed, grid = jobs_of(tasks, seeds, shorten, arguments.only)
    results: Results = {}
    begun = perf_counter()
    with get_context("spawn").Pool(WORKERS) as pool:
        run_all(pool, [*fixed, *grid], results, begun)
        best = winners(results, tasks)
        again = [
            Job(task.name, best[key], seed, round(task.rounds * shorten))
            for task in tasks
            for key in best
            if key[0] == task.name
            for seed in range(1, seeds)
        ]
        run_all(pool, again, results, begun)
    report(tasks, results, best, arguments.png)
    print(f"\n{perf_counter() - begun:.0f} s")
    if arguments.json:
        everything = [
            {"task": name, "contender": asdict(contender), "runs": [asdict(each) for each in runs]}
            for (name, contender), runs in results.items()
        ]
        with open(arguments.json, "w") as file:
            json.dump(everything, file)


def report(
    tasks: Sequence[Task],
    results: Results,
    best: dict[tuple[str, str], Contender],
    png: str | None,
) -> None:
    """Print and draw everything."""
    panels: dict[str, dict[Contender, list[Point]]] = {}
    for task in tasks:
        found = {c.label: average(results[n, c]) for n, c in results if n == task.name}
        if task.metric != "accuracy":
            convex_table(task, found)
            continue
        table(task, found, results)
        gates(task, found, best)
        panels[task.name] = {
            contender: found[contender.label] for contender in drawn(task, results, best)
        }
    if png:
        draw(png, panels)


if __name__ == "__main__":
    main()
