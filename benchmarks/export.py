"""Export a trained policy for use elsewhere: its model card with the results so far, and the full model of an adapter.

    python -m benchmarks.export RUN [--merge DIR]

Below OUT/runs/RUN, `policy/` holds the weights (an adapter with --lora), the tokenizer with its chat template and
README.md, the model card.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import guarded
from benchmarks.options import Parser


def export_parser() -> Parser:
    made = Parser("export", "Write the model card of a trained policy, and the full model of an adapter.")
    made.add_argument("run", metavar="RUN", help="a finished run: its id or folder")
    made.add_argument("--out", type=Path, default=Path(".advalign"), help="the output folder (default: .advalign)")
    made.add_argument("--merge", type=Path, metavar="DIR", help="write a model without an adapter into a new folder")
    made.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of --merge (default: bfloat16)"
    )
    made.add_argument("--model", help="with --merge: where the base model is, if not where the run found it")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for a mistake of the user's, told in one line."""
    options = export_parser().parse_args(arguments)

    def command() -> int:
        from benchmarks.reporting.exported import run_at, write_card, write_full_model

        run = run_at(options.run, options.out)
        written = [str(write_card(run))]
        if options.merge is not None:
            write_full_model(run, options.merge, dtype=options.dtype, model=options.model)
            written.append(str(options.merge))
        sys.stdout.write(f"written: {', '.join(written)}\n")
        return 0

    return guarded(command, out=options.out)


if __name__ == "__main__":
    sys.exit(main())
