"""What prompts say of a task's examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from preface.backbones.base import Backbone
from preface.backbones.contexts import Inputs
from preface.labelling.calibration import calibrated, content_free
from preface.labelling.free_text import FreeText, write_each
from preface.labelling.labeller import Labeller, Prediction, predictions_of
from preface.labelling.multi_label import MultiLabel, labels_of
from preface.labelling.options import Calibration
from preface.labelling.voting import combined
from preface.prompts import Prompts, stack
from preface.records.card import Ensemble
from preface.tasks import Example, render
from preface.tasks.task import CUE, WHOLE, Instruction
from preface.terminal.progress import progress

PLAIN = Instruction(template=WHOLE)


def predictions_on(
    backbone: Backbone,
    examples: Sequence[Example],
    words: Sequence[str],
    prompts: Sequence[Prompts],
    scoring: Literal["rank", "generate"] = "rank",
    max_input_tokens: int = 512,
    instruction: Instruction = PLAIN,
    cue: str = CUE,
    title: str = "",
    calibration: Calibration = "none",
    ensembles: Sequence[Ensemble | None] | None = None,
    goes_on: bool = False,
    answer_pieces: int = 32,
    multi_label: bool = False,
) -> tuple[list[list[Prediction]], int]:
    """What each prompt, or ensemble, says of each example, all in the same batches; and how many inputs were cut.

    Args:
        words: the label words; none: the answers are free text.
        instruction: what is read; where it has answers of its own, these stand for the label words.
        title: of the progress bar.
        ensembles: how each of `prompts` answers as one, if it is several.
        goes_on: the texts go on from what prompts began, so they have no beginning of their own.
        calibration: what is taken out of the scores, where label words are ranked.
        answer_pieces: that are generated in free text, at most.
        multi_label: any number of the words may be right; they are ranked, for nothing is generated.
    """
    answers = {instruction.answers.get(word, word): word for word in words}
    question = backbone.question(instruction.template, cue)
    begin = len(backbone.begin) if goes_on else 0

    def read(rows: Sequence[Example]) -> tuple[list[list[int]], list[bool]]:
        ids, are_cut = render(backbone.tokenize, rows, max_input_tokens, question)
        return [item[begin:] for item in ids], are_cut

    inputs, cut = read(examples)
    stacked = stack(prompts)
    # the texts as prompts are trained: another evaluation of such prompts will want them again
    again = stacked.leaves_reading and (instruction == PLAIN or bool(stacked.tensors))
    tokenized = Inputs(backbone, inputs, keep=again)
    if not words:
        text = FreeText(backbone, cue, answer_pieces)
        with progress(title, len(inputs) * stacked.size, "rows") as advance:
            written = write_each(Labeller(backbone, stacked, text), text, tokenized, advance)
        return [[Prediction(one, None) for one in each] for each in written], sum(cut)
    labels = labels_of(backbone, tuple(answers), cue, multi_label)
    labeller = Labeller(backbone, stacked, labels)
    with progress(title, len(inputs) * stacked.size, "rows") as advance:
        if scoring == "rank" or isinstance(labels, MultiLabel):
            scores = labeller.label_each(tokenized, advance)  # [P, N, C] or [P, N, C, 2]
            if calibration == "batch":
                scores = calibrated(scores, scores)
            elif calibration == "contextual":
                free, _ = read(content_free(examples[0]))
                scores = calibrated(scores, labeller.label_each(Inputs(backbone, free)))
            parts = scores.split([some.size for some in prompts])
            together = [
                combined(part, ensemble) for part, ensemble in zip(parts, ensembles or [None] * len(parts), strict=True)
            ]
            return [predictions_of(said, labels.called(answers)) for said in together], sum(cut)
        longest = max(map(len, labels.pieces)) + 1
        written = labeller.generate_each(tokenized, longest, advance)
    given = [[labels.word_of(text) for text in each] for each in written]
    return [[Prediction(answers.get(word, word), None) for word in each] for each in given], sum(cut)
