"""What the comparison found, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks.quality.asking import Answer
from benchmarks.quality.datasets import Dataset
from benchmarks.quality.figures import Interval, interval, ndcg, recall, reciprocal_rank
from benchmarks.quality.variants import WHOLE

Results = Mapping[str, Sequence[Answer]]
Measure = Callable[[Answer], float]


def report(dataset: Dataset, results: Results) -> str:
    """All tables of a dataset."""
    whole = results[WHOLE]
    parts = [f"## {dataset.name}: {len(whole)} questions, {sum(len(c.memories) for c in dataset.corpora)} memories"]
    if any(corpus.tuned_on for corpus in dataset.corpora):
        held = {name: [a for a in answers if not a.corpus.tuned_on] for name, answers in results.items()}
        tuned = {name: [a for a in answers if a.corpus.tuned_on] for name, answers in results.items()}
        parts += ["### Held out", table(dataset, held), "### Tuned on", table(dataset, tuned), "### All"]
    parts += [table(dataset, results), "### By kind of question", _by_kind(dataset, whole)]
    parts += [f"{_times(whole)} {_checked(results)}"]
    return "\n\n".join(parts)


def table(dataset: Dataset, results: Results) -> str:
    """One line for each way of recall."""
    measures = _measures(dataset)
    lines = [_line(("", *measures)), _line("---" for _ in range(len(measures) + 1))]
    for name, answers in results.items():
        lines.append(_line((name, *(_shown(answers, measure) for measure in measures.values()))))
    return "\n".join(lines)


def _by_kind(dataset: Dataset, answers: Sequence[Answer]) -> str:
    kinds = sorted({answer.question.kind for answer in answers})
    return table(dataset, {kind: [a for a in answers if a.question.kind == kind] for kind in kinds})


def _measures(dataset: Dataset) -> dict[str, Measure]:
    recalls: dict[str, Measure] = {f"R@{depth}": _recall_at(depth) for depth in dataset.depths}
    return {
        **recalls,
        "MRR": lambda answer: reciprocal_rank(answer.found, answer.question.answers),
        "nDCG@10": lambda answer: ndcg(answer.found, answer.question.answers),
    }


def _recall_at(depth: int) -> Measure:
    return lambda answer: recall(answer.found, answer.question.answers, depth)


def _shown(answers: Sequence[Answer], measure: Measure) -> str:
    found: Interval = interval([measure(answer) for answer in answers])
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _times(answers: Sequence[Answer]) -> str:
    taken = sorted(answer.ms for answer in answers)
    middle, late = taken[len(taken) // 2], taken[int(0.95 * len(taken))]
    return f"Recall over HTTP, four at a time, with explanations: p50 {middle:.1f} ms, p95 {late:.1f} ms."


def _checked(results: Results) -> str:
    answers = [answer for each in results.values() for answer in each]
    count, apart = sum(len(answer.found) for answer in answers), max(answer.apart for answer in answers)
    return f"Explained: {count} results of all ways; at most {apart:.0e} between a score and the sum of its parts."


def _line(cells: Iterable[str]) -> str:
    return "".join(_cells(cells))


def _cells(cells: Iterable[str]) -> Iterator[str]:
    yield "|"
    for cell in cells:
        yield f" {cell} |"
