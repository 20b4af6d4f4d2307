"""The reference store: computed once, damaged never trusted."""

import numpy as np

from experiments.models.forward import Policy, score
from experiments.training.reference_store import ReferenceStore
from tests.experiments.training.toy_rows import rows
from tests.tiny import tiny_model


def test_log_probs_are_computed_once_and_a_damaged_file_again(tmp_path):
    policy, examples = Policy(tiny_model("llama3", 0), lora_rank=4), rows()
    store = ReferenceStore(tmp_path, weights="w")
    first = store.logps(policy, examples, ["chosen", "rejected"])
    assert store.num_computed == 1, "a pair is scored in one pass"
    again = ReferenceStore(tmp_path, weights="w")
    second = again.logps(policy, examples, ["chosen", "rejected"])
    assert again.num_computed == 0
    path = sorted(tmp_path.glob("*.bin"))[0]
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    third = again.logps(policy, examples, ["chosen", "rejected"])
    assert again.num_computed == 1
    alone = ReferenceStore(tmp_path, weights="w")
    for entry, known in zip(alone.logps(policy, examples, ["rejected"]), third, strict=True):
        assert set(entry) == {"rejected"}
        np.testing.assert_array_equal(entry["rejected"], known["rejected"])
    assert alone.num_computed == 0
    expected = score(policy, examples, ["chosen", "rejected"])
    for entries in zip(first, second, third, expected, strict=True):
        for role in ("chosen", "rejected"):
            for entry in entries[1:]:
                np.testing.assert_allclose(entries[0][role], entry[role], rtol=1e-4, atol=1e-4)


def test_progress_is_told_of_what_is_scored_and_not_of_what_is_read(tmp_path):
    policy, examples, told = Policy(tiny_model("llama3", 0)), rows(), []
    store = ReferenceStore(tmp_path, weights="w", progress=lambda *counted: told.append(counted))
    store.logps(policy, examples, ["chosen", "rejected"])
    assert told == [(len(examples), len(examples))], "they fit in one batch"
    store.logps(policy, examples, ["chosen", "rejected"])
    assert len(told) == 1
    store.logps(policy, examples, ["chosen", "expert"])
    assert told[1:] == [(len(examples), len(examples))], "one file more"


def test_other_weights_have_other_files(tmp_path):
    policy, examples = Policy(tiny_model("llama3", 0)), rows()
    for weights in ("a", "b"):
        ReferenceStore(tmp_path, weights=weights).logps(policy, examples, ["chosen"])
    assert len(list(tmp_path.glob("*.bin"))) == 2
