"""The command `sluice`: each of its commands is a module of this package, too."""

from __future__ import annotations

import typer

from app import lazily, room  # noqa: F401  before all others
from scripts.demo import demo
from scripts.drill import drill
from scripts.evaluate import evaluate
from scripts.export_items import export_items
from scripts.forget import forget
from scripts.freshness import freshness
from scripts.import_features import import_features
from scripts.import_items import import_items
from scripts.recommend import recommend
from scripts.replay import replay
from scripts.requeue import requeue
from scripts.restore_snapshot import app as restore_snapshot
from scripts.rules import rules
from scripts.serve import serve

app = typer.Typer(
    name="sluice",
    help="Online-learning recommendations that are boring to run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def sluice() -> None:
    """Online-learning recommendations that are boring to run."""


app.command("serve")(serve)
app.command("replay")(replay)
app.command("evaluate")(evaluate)
app.command("freshness")(freshness)
app.command("recommend")(recommend)
app.command("import-items")(import_items)
app.command("export-items")(export_items)
app.command("import-features")(import_features)
app.command("demo")(demo)
app.command("drill")(drill)
app.command("requeue")(requeue)
app.command("forget")(forget)
app.command("rules")(rules)
app.add_typer(restore_snapshot, name="restore-snapshot")


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
