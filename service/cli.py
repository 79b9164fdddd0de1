"""The command `genadapter`. Light: each command imports what it needs when it runs."""

from __future__ import annotations

import typer

from service.commands import adapters, keys
from service.commands.chat import chat
from service.commands.client import EXIT_CODES
from service.commands.contextualize import contextualize
from service.commands.doctor import doctor
from service.commands.evaluation import evaluation
from service.commands.generate import generate
from service.commands.serve import serve
from service.commands.training import bench, import_checkpoint, train

# add_completion: `genadapter --install-completion` for the shell in use, `--show-completion` to see what it would add.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Turn documents into LoRA adapters with one forward pass, and ask them.\n\n"
    "Begin with `genadapter serve`; then, on another terminal, `genadapter contextualize FILE` and `genadapter chat ID`.",
    epilog=EXIT_CODES,
)
app.command()(serve)
app.command()(contextualize)
app.command()(generate)
app.command()(chat)
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.app, name="keys")
app.command()(doctor)
app.command()(train)
app.add_typer(evaluation, name="eval")
app.command()(bench)
app.command()(import_checkpoint)

if __name__ == "__main__":
    app()
