"""`cairnfs meta dump` and `cairnfs meta load`."""

from pathlib import Path

import typer

from cairnfs.cli.admin import COORDINATORS, DATA, coordinators_of
from cairnfs.cli.options import CONFIG

app = typer.Typer(help="Back up the metadata, or move it to another engine.", rich_markup_mode=None)

FILE = typer.Argument(..., metavar="FILE", help="the dump")
ENGINE = typer.Option(
    "sqlite", "--engine", metavar="ENGINE", help="sqlite or postgresql://USER@HOST/DATABASE"
)
ENGINE_DATA = typer.Option(
    None, "--engine-data", metavar="PATH", help="data directory of the coordinator that uses the engine"
)
ENGINE_DATA_NEEDED = typer.Option(
    ..., "--engine-data", metavar="PATH", help="data directory of the coordinator that will use the engine"
)
PASSWORD_FILE = typer.Option(
    None, "--engine-password-file", metavar="PATH", help="file with the password for the URL of the engine"
)


@app.command("dump")
def dump(
    file: Path = FILE,
    coordinators: str | None = COORDINATORS,
    data: Path | None = DATA,
    engine: str = ENGINE,
    engine_data: Path | None = ENGINE_DATA,
    engine_password_file: Path | None = PASSWORD_FILE,
    config: Path | None = CONFIG,
) -> int:
    """Write all metadata of one moment to FILE.

    \b
    cairnfs meta dump backup.cairnfs                             of the cluster, while it runs
    cairnfs meta dump backup.cairnfs --engine-data /srv/meta     of a coordinator that does not run

    FILE is read back before it gets its name. It has names and attributes, not the contents of files.
    """
    from cairnfs.coordinator import meta_files

    if engine_data is not None:
        found = meta_files.dump_engine(engine, engine_data, engine_password_file, file)
    else:
        from cairnfs.client import admin

        found = admin.dump(
            coordinators_of(coordinators, data, config),
            lambda pieces: meta_files.write_dump(file, pieces),
        )
    print(f"{found.pairs} records, {file.stat().st_size} bytes, SHA-256 {found.digest.hex()}")
    return 0


@app.command("load")
def load(
    file: Path = FILE,
    engine: str = ENGINE,
    engine_data: Path = ENGINE_DATA_NEEDED,
    engine_password_file: Path | None = PASSWORD_FILE,
) -> int:
    """Load a dump into an empty engine that no coordinator uses, and compare all of it.

    \b
    cairnfs meta load backup.cairnfs --engine-data /srv/meta-new
    cairnfs meta load backup.cairnfs --engine postgresql://cairnfs@db/cairnfs --engine-data /srv/meta

    Start the coordinator with the same --engine and --data afterwards. A load that broke off begins anew.
    """
    from cairnfs.coordinator import meta_files

    found = meta_files.load_engine(engine, engine_data, engine_password_file, file)
    print(f"{found.pairs} records, all compared, SHA-256 {found.digest.hex()}")
    return 0
