"""`python -m preface.lm_eval`: the command of lm-evaluation-harness, which then has `--model preface`."""

from __future__ import annotations

import sys

from preface.errors import UserError
from preface.extras import missing


def main() -> None:
    """All arguments are lm-eval's own; a user's mistake in those of the model is one line and exit code 2."""
    try:
        if missing("lm-eval"):
            raise UserError("lm-eval is not installed; `pip install 'preface[lm-eval]'` brings it")
        from lm_eval.__main__ import cli_evaluate

        import preface.lm_eval.model  # noqa: F401 — which registers it

        cli_evaluate()
    except UserError as error:
        print(f"preface: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
