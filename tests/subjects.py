"""What a task evaluates, and the spec of a run, with what a test does not care about filled in."""

import json

from benchmarks.tasks import Subject


def subject(folder, policy=None, tokenizer=None, **others):
    """A policy without held-out pairs whose evaluations/ is `folder`."""
    given = {"held_out": (), "reference": []} | others
    return Subject(policy=policy, tokenizer=tokenizer, folder=folder, **given)


def write_spec(folder, method="dpo", *, weights="w", seed=0, model="tiny", data="pairs", **others):
    """The spec.json of a run's folder, which is made."""
    spec = {"method": method, "seed": seed, "hyperparameters": {}, "training": {}} | others
    spec |= {"model": {"name": model, "weights": weights}, "data": {"name": data, "tokens": "t"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
