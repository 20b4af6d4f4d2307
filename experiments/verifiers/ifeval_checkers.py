"""IFEval's checkers by instruction, made to need no download and to give the same verdict every time."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nltk.tokenize import PunktSentenceTokenizer


@functools.cache
def checkers() -> Mapping[str, Any]:
    """`{"punctuation:no_comma": CommaChecker, …}`, the 25 of the paper.

    Where a prompt asks for "#" or "!" so many times, that character is counted (the original draws a random letter).
    """
    import langdetect
    import nltk
    from if_verifiable.ifeval import INSTRUCTION_DICT, instructions, instructions_util

    langdetect.DetectorFactory.seed = 0
    instructions.logging = logging.getLogger("if_verifiable")  # not the root logger: "no language found" is no error
    instructions.logging.setLevel(logging.CRITICAL)
    # They look for NLTK's sentence tables on disk; we give their module an `nltk` that has them.
    sentences = sentence_tokenizer()
    words = nltk.tokenize.NLTKWordTokenizer()
    instructions_util.nltk = SimpleNamespace(
        tokenize=nltk.tokenize,
        data=SimpleNamespace(load=lambda path: sentences),
        word_tokenize=lambda text: [word for part in sentences.tokenize(text) for word in words.tokenize(part)],
    )

    class CharacterFrequency(instructions.LetterFrequencyChecker):  # type: ignore[misc]
        def build_description(self, *, letter: str, **arguments: Any) -> Any:
            description = super().build_description(letter="a", **arguments)  # anything that it does not replace
            self._letter = letter.lower()
            return description

    return {**INSTRUCTION_DICT, "keywords:letter_frequency": CharacterFrequency}


@functools.cache
def sentence_tokenizer() -> PunktSentenceTokenizer:
    """NLTK's English sentence tokenizer, with its tables from the `punkt` package."""
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    tables, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types = set(tables.abbrev_types)
    parameters.collocations = set(tables.collocations)
    parameters.sent_starters = set(tables.sent_starters)
    parameters.ortho_context.update(tables.ortho_context)
    return PunktSentenceTokenizer(parameters)
