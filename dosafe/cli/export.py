"""``dosafe export``: records in the schema of another project."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["every-eval-ever"]), required=True, help="Whose schema.", expose_value=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder that gets data/ and the files.",
)
@click.option("--organization", default="unknown", show_default=True, help="Who evaluated.")
@click.option(
    "--relationship",
    type=click.Choice(["first_party", "third_party", "collaborative", "other"]),
    default="other",
    show_default=True,
    help="Of whoever evaluated to the model's developer.",
)
@click.option(
    "--samples/--no-samples", default=True, show_default=True, help="Also one line for each answer and number."
)
def export(records: tuple[Path, ...], out: Path, organization: str, relationship: str, samples: bool) -> None:
    """Write RECORDS (files, or folders of them) in the schema of Every Eval Ever.

    Prompts and answers are never written.
    """
    from dosafe.sharing.every_eval_ever import NO_ONE, SCHEMA
    from dosafe.sharing.every_eval_ever import export as write

    done = write(records, out, organization, relationship, samples)  # type: ignore[arg-type]
    for path, _ in done:
        click.echo(path)
    left = [f"{one.aggregate['model_info']['name']}: {each}" for _, one in done for each in one.left_out]
    for line in left:
        click.echo(f"left out: {line}", err=True)
    click.echo(f"{len(done)} records in schema {SCHEMA} of Every Eval Ever", err=True)
    if organization == NO_ONE:
        click.echo("before you publish: --organization says who evaluated", err=True)
