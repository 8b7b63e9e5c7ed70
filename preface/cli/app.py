"""The application, and how a verb joins it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from preface.cli.options import Fields, expand, with_options
from preface.errors import UserError
from preface.terminal.launcher import launched

Function = TypeVar("Function", bound=Callable[..., None])

app = typer.Typer(
    name="preface",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


class Compare(TyperGroup):
    """`compare NAME` is short for `compare cross-domain --recipe NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["cross-domain", "--recipe", *args]
        return super().resolve_command(ctx, args)


compare_app = typer.Typer(
    cls=Compare,
    no_args_is_help=True,
    help="Run experiments and report them. `preface compare NAME --out FOLDER` takes a shipped recipe's name.",
)
app.add_typer(compare_app, name="compare")


class Verb(TyperCommand):
    """A command that is listed by its name and first line alone. Its options are made when it is called, or its help
    is shown: some come from modules that import torch, and `preface --help` should not wait seconds for that."""

    shares: ClassVar[bool]
    """Whether processes that a launcher started do one work together."""

    def complete(self) -> Any:
        """The same command with its options."""
        raise NotImplementedError

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if launched() and not self.shares:
            raise UserError(
                f"{info_name}: a launcher has started several processes (WORLD_SIZE), and each would do the whole; "
                "start it without one"
            )
        command = self.complete()
        return command.make_context(info_name, expand(args, command.params), parent=parent, **extra)


def verb(
    epilog: str = "",
    options: Callable[[], dict[str, Fields]] = dict,
    group: typer.Typer = app,
    name: str | None = None,
    shares: bool = False,
) -> Callable[[Function], Function]:
    """A verb of the application.

    Args:
        epilog: examples, below the help.
        options: the fields of configuration models that are options too, by the parameter of the verb that takes
            those which the user gave, as a dictionary.
        group: where the verb belongs.
        name: default: the function's.
        shares: whether processes that a launcher started do one work together; other verbs refuse a launcher.
    """

    def register(function: Function) -> Function:
        class Complete(Verb):
            def complete(self) -> Any:
                single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
                single.command(self.name, epilog=epilog)(with_options(function, options()))
                return get_command(single)

        Complete.shares = shares

        def listed() -> None: ...

        listed.__name__, listed.__doc__ = function.__name__, function.__doc__
        group.command(name, epilog=epilog, cls=Complete)(listed)
        return function

    return register


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"preface {version('preface')}")
        raise typer.Exit


@app.callback()
def preface(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Train the preface, freeze the book: soft prompts for frozen language models."""


# each module adds its verbs; `--help` lists them in this order
for module in (
    "train",
    "evaluate",
    "predict",
    "serve",
    "ensemble",
    "push",
    "neighbors",
    "similarity",
    "export",
    "import_",
    "compare",
    "report",
    "tasks",
    "methods",
    "bench",
    "doctor",
    "tokenize",
    "pretrain",
    "adapt",
):
    import_module(f"preface.cli.{module}")
