"""On equal tensors our GRPO loss and its gradient are TRL's."""

import pytest
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from methods.grpo import GRPO, group_advantages
from methods.types import Batch, Outputs, Samples, Tokens
from tests.methods.conftest import VOCAB, outputs, tokens

disable_progress_bar()
LENGTHS = (4, 7, 3, 5, 2, 6, 7, 1)
REWARDS = [0.0, 1.0, 0.5, 1.0, 0.2, 0.2, 0.2, 0.9]  # two groups of four


@pytest.fixture
def drawn():
    """Two prompts of equal length (TRL pads prompts on the left, we do not) with four samples each."""
    generator = torch.Generator().manual_seed(3)
    draw = [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in (4, 4, *LENGTHS)]
    return tokens([draw[i // 4] for i in range(8)], draw[2:])


def samples_of(block: Tokens, now: Outputs, reference: Outputs) -> Samples:
    """Drawn by a policy that is a little different from the one that learns, so that some ratios are clipped."""
    noise = 0.3 * torch.randn(now.logps.shape, generator=torch.Generator().manual_seed(5)) * now.mask
    return Samples(
        group=torch.arange(8) // 4,
        rewards=torch.tensor(REWARDS),
        logps=now.logps.detach() + noise,
        mask=now.mask,
        mean_length=sum(LENGTHS) / 8,
        finished=torch.ones(8, dtype=torch.bool),
        reference=reference.logps,
    )


def theirs(tmp_path, model, block: Tokens, samples: Samples, kl: float, unbiased: bool, loss_type: str) -> torch.Tensor:
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1", bos_token="t2")
    config = GRPOConfig(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        num_generations=4,
        per_device_train_batch_size=8,
        loss_type=loss_type,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "t3"}] * 8),
        processing_class=tokenizer,
    )
    trainer.args.use_bias_correction_kl = unbiased
    trainer.beta = kl  # not in the settings: it would load a reference model by name
    trainer.current_gradient_accumulation_steps = 1
    start = 4
    inputs = {
        "prompt_ids": block.ids[:, :start],
        "prompt_mask": block.attention[:, :start].long(),
        "completion_ids": block.ids[:, start:],
        "completion_mask": block.completion[:, start:].long(),
        "advantages": group_advantages(samples),
        "old_per_token_logps": samples.logps,
        "ref_per_token_logps": samples.reference,
        "num_items_in_batch": block.completion.sum(),
    }
    return trainer._compute_loss(model.train(), inputs)


def flat_gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("kl", "unbiased"), [(0.0, True), (0.04, True), (0.04, False)])
@pytest.mark.parametrize(("reduction", "loss_type"), [("token", "dapo"), ("sequence", "grpo")])
def test_the_loss_and_its_gradient_are_trls(
    kl, unbiased, reduction, loss_type, drawn, policy_model, reference_model, tmp_path
):
    now, anchor = outputs(policy_model, drawn), outputs(reference_model, drawn)
    samples = samples_of(drawn, now, anchor)
    loss = GRPO(kl=kl, unbiased_kl=unbiased, reduction=reduction).loss(
        Batch({"sampled": drawn}, samples), {"sampled": now}, {"sampled": anchor}
    )
    assert loss.metrics["clipped"] > 0.1
    expected = theirs(tmp_path, policy_model, drawn, samples, kl, unbiased, loss_type)
    torch.testing.assert_close(loss.value, expected, rtol=1e-5, atol=1e-7)
    mine, wanted = flat_gradient(policy_model, loss.value), flat_gradient(policy_model, expected)
    assert wanted.norm() > 1e-3
    assert (mine - wanted).norm() / wanted.norm() < 1e-5


def test_advantages_are_those_of_trl():
    """As `GRPOTrainer._generate_and_score_completions` computes them: Bessel's correction and a floor of 1e-4."""
    rewards = torch.tensor(REWARDS)
    grouped = rewards.view(-1, 4)
    mean, std = (value.repeat_interleave(4) for value in (grouped.mean(1), grouped.std(1)))
    samples = Samples(
        group=torch.arange(8) // 4,
        rewards=rewards,
        logps=torch.zeros(8, 1),
        mask=torch.ones(8, 1, dtype=torch.bool),
        mean_length=1.0,
        finished=torch.ones(8, dtype=torch.bool),
    )
    torch.testing.assert_close(group_advantages(samples), (rewards - mean) / (std + 1e-4))
