"""A reward model on this machine as a judge: a sequence classifier with one output that scores a response by itself.

A score must be that of the conversation alone, as the model's card computes it. Three things would change it unseen:

- a second BOS, where both the chat template and the tokenizer write one: a conversation begins with exactly one;
- padding with the end token: transformers then reads the score one token too early, at the last token that is not
  padding. A model that names no pad token is therefore padded with a token that its batch does not contain;
- half precision, where the batch's shape moves the score: there each conversation runs by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.judges.judging import Duel, Judgement, Progress, by_scores
from benchmarks.judges.ledger import Ledger, ledger_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 8  # conversations a forward, in full precision
NAMED = {  # arXiv 2507.01352
    "skywork": "Skywork/Skywork-Reward-V2-Llama-3.1-8B",
    "skywork_0_6b": "Skywork/Skywork-Reward-V2-Qwen3-0.6B",
}
BELIEVED = 100_000_000  # parameters: encoders below judge worse than length alone does


@dataclass(frozen=True)
class RewardJudge:
    """The reward model in `folder`. It is loaded when there is something to score, and each score is kept."""

    name: str
    folder: Path

    position_sensitive = False

    @property
    def identity(self) -> str:
        return f"reward:{self.name}#{self.weights[:16]}"

    @cached_property
    def weights(self) -> str:
        from experiments.models.weights import weights_hash

        return weights_hash(self.folder)

    @property
    def caveat(self) -> str:
        size = self._num_parameters
        few = f"judged by a model of {size / 1e6:.0f} million parameters, which judges worse than length does"
        return f"{few}: this tests the plumbing" if size < BELIEVED else ""

    @property
    def aliases(self) -> frozenset[str]:
        return frozenset({self.name, f"reward:{self.name}", str(self.folder.resolve()), self.weights})

    def judge(self, duels: Sequence[Duel], folder: Path, progress: Progress) -> list[Judgement]:
        """Judgements from the scores of both responses; each response is scored once."""
        pairs = list(dict.fromkeys((duel.instruction, text) for duel in duels for text in (duel.first, duel.second)))
        scores = dict(zip(pairs, self.score(pairs, folder, progress), strict=True))
        return [by_scores(*(scores[duel.instruction, text] for text in (duel.first, duel.second))) for duel in duels]

    def score(self, pairs: Sequence[tuple[str, str]], folder: Path, progress: Progress) -> list[float]:
        """The score of each (instruction, response), from the ledger where it has it."""
        keys = [ledger_key(self.weights, self._precision, *pair) for pair in pairs]
        with Ledger.opened(folder / f"reward-{self.weights[:16]}.jsonl") as ledger:
            missing = [i for i, key in enumerate(keys) if ledger.get(key) is None]
            if missing:
                rows = [(i, conversation_ids(self._tokenizer, *pairs[i], limit=self._context)) for i in missing]
                rows.sort(key=lambda row: -len(row[1]))
                for start in range(0, len(rows), self._batch):
                    part = rows[start : start + self._batch]
                    values = score_rows(self._model, [ids for _, ids in part])
                    for (i, _), value in zip(part, values, strict=True):
                        ledger.add(keys[i], score=value)
                    progress(len(pairs) - len(rows) + start + len(part), len(pairs))
            return [float((ledger.get(key) or {})["score"]) for key in keys]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from experiments.models.loading import quiet_transformers

        with quiet_transformers():
            import transformers

            tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True
            )
        return tokenizer

    @cached_property
    def _model(self) -> PreTrainedModel:
        import torch
        import transformers

        from experiments.models.loading import quiet_transformers
        from experiments.models.soundness import load_whole

        library: Any = transformers  # its loaders have no types
        with quiet_transformers():
            model = load_whole(
                library.AutoModelForSequenceClassification,
                self.folder,
                extra_heads=True,
                dtype=getattr(torch, self._precision) if self._precision else "auto",
            )
        if model.config.num_labels != 1:
            raise ValueError(f"reward:{self.name} has {model.config.num_labels} outputs; a reward model has one")
        loaded: PreTrainedModel = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return loaded

    @property
    def _precision(self) -> str:
        """Full on a CPU; on a GPU as the weights were saved (empty)."""
        import torch

        return "" if torch.cuda.is_available() else "float32"

    @property
    def _batch(self) -> int:
        return BATCH if str(self._model.dtype) == "torch.float32" else 1

    @property
    def _context(self) -> int:
        positions = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return min(int(self._tokenizer.model_max_length), int(positions or 1 << 30))

    @cached_property
    def _num_parameters(self) -> int:
        from experiments.models.loading import num_parameters

        return num_parameters(self._model)


def reward_judge(name: str) -> RewardJudge:
    """A folder, a name of `NAMED`, an encoder preset or a hub id.

    KeyError for an unknown name, AssetError for a model that cannot be had.
    """
    from experiments.rewards.reward_models import encoder_folder

    full = NAMED.get(name, name)
    return RewardJudge(full, encoder_folder(full))


def conversation_ids(tokenizer: PreTrainedTokenizerBase, instruction: str, response: str, *, limit: int) -> list[int]:
    """The tokens of a question and its answer: by the chat template, or as a pair of texts where there is none.

    What exceeds `limit` is cut from the start, because the answer and the end are what is scored.
    """
    if not tokenizer.chat_template:
        pair: list[int] = tokenizer(instruction, response, verbose=False)["input_ids"]
        if len(pair) > limit:
            pair = tokenizer(instruction, response, truncation="only_first", max_length=limit)["input_ids"]
        return pair
    turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    first = [bos] if bos is not None and (ids[:1] == [bos] or tokenizer("a")["input_ids"][:1] == [bos]) else []
    rest = ids[1:] if first and ids[:1] == first else ids
    return [*first, *rest[max(0, len(rest) + len(first) - limit) :]]


def score_rows(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[float]:
    """The scores of `model` for each row of tokens, from one forward of all."""
    import torch

    config: Any = model.config.get_text_config()
    own = config.pad_token_id
    used = {token for row in rows for token in row}
    filler = own if own is not None else next(i for i in range(config.vocab_size - 1, -1, -1) if i not in used)
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=model.device)
    real = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    with _padding_with(config, filler), torch.no_grad():
        logits = model(input_ids=ids, attention_mask=real.to(model.device).long()).logits
    scores: list[float] = logits[:, 0].float().tolist()
    return scores


@contextmanager
def _padding_with(config: Any, token: int) -> Iterator[None]:
    own, config.pad_token_id = config.pad_token_id, token
    try:
        yield
    finally:
        config.pad_token_id = own
