"""What an output means, in the types of JSON: the `answer` of a learner that is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

DIGITS = 6  # of a probability
SHOWN = 5  # classes, the likeliest


def labelled(names: Sequence[str]) -> Callable[[Tensor], object]:
    """Of scores (C,): the likeliest label, and the probabilities of the likeliest few."""

    def answer(output: Tensor) -> object:
        probabilities, indices = output.softmax(0).topk(min(SHOWN, len(names)))
        shown = zip(indices.tolist(), probabilities.tolist(), strict=True)
        return {
            "label": names[int(indices[0])],
            "probabilities": {names[index]: round(value, DIGITS) for index, value in shown},
        }

    return answer
