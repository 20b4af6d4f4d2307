"""alpaca_eval's annotators as judges, asked through an OpenAI-compatible endpoint.

Prompt, model, request and parser are the annotator's, taken from the package; asking and keeping are ours, because the
package's own way falls over on current pandas, keeps nothing of a chunk that fails, and logs the endpoint.

`OPENAI_BASE_URL` (or `OPENAI_API_BASE`) and `OPENAI_API_KEY` are read when a judge is asked and appear in no log, no
file and no message. Departs from alpaca_eval in two points: a duel is judged in both orders instead of a random one,
and a response that contains the marks of the prompt's own format stays text, where it could rewrite the prompt there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.judges.endpoint import Declined, Endpoint, Patience, ask
from benchmarks.judges.judging import Duel, Judgement, Progress
from benchmarks.judges.ledger import Ledger, ledger_key
from registry import nearest

SENT = ("logprobs", "top_logprobs", "tool_choice", "tools", "functions", "function_call", "stop", "seed")
UNSENT = ("model_name", "max_tokens", "temperature", "top_p", "price_per_token", "requires_chatml", "client_kwargs")
DEFAULTS = {"max_tokens": 2048, "temperature": 0.7, "top_p": 1.0}  # alpaca_eval's
NUM_WORKERS = 8


@dataclass(frozen=True)
class Annotator:
    """One annotator of alpaca_eval: messages with places for texts, the request's fields, and the reader of a reply."""

    name: str
    messages: tuple[Mapping[str, str], ...]
    request: Mapping[str, Any]
    parse: Callable[[Any], list[Any]] = field(compare=False)
    reads_choice: bool  # the parser wants the whole choice with its log-probs, not the text alone

    @property
    def digest(self) -> str:
        facts = [self.name, list(map(dict, self.messages)), dict(self.request)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]

    def body(self, duel: Duel) -> dict[str, Any]:
        """The request for a duel. Texts are put in at once, so that none is read as a place for another."""
        texts = {"instruction": duel.instruction, "output_1": duel.first, "output_2": duel.second}
        filled = [
            {**message, "content": re.sub(r"\{(instruction|output_1|output_2)\}", lambda m: texts[m[1]], content)}
            for message, content in ((message, message["content"]) for message in self.messages)
        ]
        return {**self.request, "messages": filled}

    def preference(self, choice: Mapping[str, Any]) -> float | None:
        """0 … 1, how surely the second response is the better; None if the reply names no winner."""
        try:
            with _quiet():
                (value,) = self.parse(dict(choice) if self.reads_choice else choice["text"])
            number = float(value)
        except (ValueError, TypeError, KeyError, IndexError, AssertionError, AttributeError):
            return None
        if number == 0:  # a draw
            return 0.5
        return number - 1 if 1 <= number <= 2 else None


@functools.cache
def annotator(name: str, model: str | None = None) -> Annotator:
    """KeyError for an unknown annotator, ValueError for one that this protocol cannot ask."""
    with _quiet():
        from alpaca_eval import constants, utils
        from alpaca_eval.annotators.pairwise_evaluator import SinglePairwiseAnnotator

        folder = Path(constants.EVALUATORS_CONFIG_DIR)
        known = sorted(path.parent.name for path in folder.glob("*/configs.yaml"))
        if name not in known:
            raise KeyError(f"alpaca_eval has no annotator {name!r}{nearest(name, known)}")
        configs = utils.load_configs(folder / name / "configs.yaml")
        (config, *others) = configs.values()
        given = config.get("completions_kwargs", {})
        odd = sorted(set(given) - {*SENT, *UNSENT})
        simple = config.get("fn_completions") == "openai_completions" and config.get("batch_size", 1) == 1
        if others or odd or not simple:
            raise ValueError(
                f"the annotator {name} is a pool, judges several duels at once, biases tokens or needs another"
                " provider's client; choose a chat annotator such as weighted_alpaca_eval_gpt4_turbo"
            )
        loaded = SinglePairwiseAnnotator(base_dir=folder, is_randomize_output_order=False, **config)
        template = loaded.prompt_template.strip()
        if not template.startswith("<|im_start|>"):
            raise ValueError(f"the annotator {name} asks a completion model; choose a chat annotator")
        messages = tuple(utils.prompt_to_chatml(template))
    request = DEFAULTS | {key: given[key] for key in ("max_tokens", "temperature", "top_p", *SENT) if key in given}
    return Annotator(
        name=name,
        messages=messages,
        request={"model": model or given["model_name"], **request},
        parse=loaded.fn_completion_parser,
        reads_choice=loaded.completion_key == "completions_all",
    )


@dataclass(frozen=True)
class ApiJudge:
    """An annotator and how patiently it is asked."""

    annotator: Annotator
    patience: Patience = field(default_factory=Patience)
    num_workers: int = NUM_WORKERS

    position_sensitive = True
    caveat = ""

    @property
    def identity(self) -> str:
        return f"api:{self.annotator.name}@{self.annotator.request['model']}#{self.annotator.digest}"

    @property
    def aliases(self) -> frozenset[str]:
        return frozenset({self.identity, f"api:{self.annotator.name}", self.annotator.request["model"]})

    def judge(self, duels: Sequence[Duel], folder: Path, progress: Progress) -> list[Judgement]:
        """Judgements, from the ledger where it has them. A reply without a verdict was paid for too, and is not asked
        for again, nor is a duel that the endpoint declines to look at (a filter of contents, a text that is too long
        for it).

        Raises JudgeError, once everything that was under way is kept, if the endpoint refuses or stays away.
        """
        keys = [ledger_key(self.identity, duel.instruction, duel.first, duel.second) for duel in duels]
        with Ledger.opened(folder / f"{self.annotator.name}-{self.annotator.digest}.jsonl") as ledger:
            missing = [(key, duel) for key, duel in zip(keys, duels, strict=True) if ledger.get(key) is None]
            progress(len(duels) - len(missing), len(duels))
            if missing:
                self._buy(missing, ledger, lambda done: progress(len(duels) - len(missing) + done, len(duels)))
            found = [ledger.get(key) for key in keys]
        return [
            Judgement(None) if entry is None else Judgement(entry["preference"], reply=str(entry.get("reply") or ""))
            for entry in found
        ]

    def _buy(self, missing: Sequence[tuple[str, Duel]], ledger: Ledger, bought: Callable[[int], None]) -> None:
        endpoint = Endpoint.from_environment()

        def buy(key: str, duel: Duel) -> None:
            try:
                reply = ask(endpoint, self.annotator.body(duel), key, self.patience)
            except Declined as refusal:
                ledger.add(key, preference=None, reply=f"declined: {refusal}", num_tokens=0)
                return
            preference = self.annotator.preference(reply.choice)
            preference = None if preference is None or math.isnan(preference) else preference
            ledger.add(
                key, preference=preference, reply=endpoint.hidden(reply.choice["text"]), num_tokens=reply.num_tokens
            )

        with ThreadPoolExecutor(self.num_workers) as workers:
            asked = [workers.submit(buy, key, duel) for key, duel in missing]
            try:
                for done, future in enumerate(as_completed(asked), 1):
                    future.result()
                    bought(done)
            except BaseException:
                endpoint.closed.set()  # nobody begins a new call or waits for another try
                workers.shutdown(cancel_futures=True)
                raise


def api_judge(name: str) -> ApiJudge:
    """`ANNOTATOR` or `ANNOTATOR@MODEL`."""
    first, _, model = name.partition("@")
    return ApiJudge(annotator(first, model or None))


@contextmanager
def _quiet() -> Iterator[None]:
    """alpaca_eval raises the root logger's level when it is imported, warns, and logs what it fails to parse."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level = root.level
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
