"""Migrations: they build what the tables say, in one piece, once, with a backup, and never backwards."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from anomalyd.errors import SchemaTooNew, StoreError
from anomalyd.slot import SlotCommit
from anomalyd.store import open_store, tables
from anomalyd.store.engine import connect
from anomalyd.store.upgrade import SCHEMA, VERSION_TABLE, Schema, upgrade

NEXT = '''
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("slots", sa.Column("note", sa.Text(), nullable=False, server_default="new"))
    {then}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A database of the present schema with one slot."""
    path = tmp_path / "anomalyd.db"
    store = open_store(f"sqlite:///{path}")
    store.commit_slot(SlotCommit("g", 1, ()))
    store.close()
    return path


def longer(folder: Path, then: str = "pass") -> Schema:
    """The present schema and one more version."""
    target = folder / "migrations"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SCHEMA.folder, target)
    (target / "versions" / "v0005_next.py").write_text(NEXT.format(then=then))
    return Schema((*SCHEMA.revisions, "0005"), target)


def migrate(path: Path, schema: Schema, *, backup: bool = True) -> None:
    """Bring a file to a schema."""
    engines = connect(f"sqlite:///{path}", 1000)
    try:
        upgrade(engines, backup=backup, schema=schema)
    finally:
        engines.dispose()


def read(path: Path, sql: str) -> object:
    """The first value of a query."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchone()[0]
    finally:
        connection.close()


def test_the_migrations_build_what_the_tables_say(file: Path) -> None:
    """No table, column, index or constraint differs between the migrated file and the tables in code."""
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_the_known_versions_are_the_scripts() -> None:
    """The versions named in code are the scripts that lie in the package, in their order."""
    config = Config()
    config.set_main_option("script_location", str(SCHEMA.folder))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == SCHEMA.revisions


def test_an_older_file_is_copied_and_migrated(file: Path, tmp_path: Path) -> None:
    """The data stay, the schema is new, and beside the file lies a whole copy of the old one."""
    migrate(file, longer(tmp_path))
    assert read(file, "SELECT note FROM slots") == "new"
    assert read(file, "SELECT version_num FROM anomalyd_schema") == "0005"
    copy = file.with_name("anomalyd.db.before-0005-from-0004")
    assert read(copy, "SELECT version_num FROM anomalyd_schema") == "0004"
    assert read(copy, "SELECT count(*) FROM slots") == 1
    store = open_store(f"sqlite:///{copy}")
    assert store.last_slot("g") == 1
    store.close()


def test_no_copy_where_none_is_wanted_or_needed(file: Path, tmp_path: Path) -> None:
    """A new file, a file of this schema and ``backup=False`` leave nothing beside the file."""
    open_store(f"sqlite:///{file}").close()
    migrate(file, longer(tmp_path), backup=False)
    assert not list(tmp_path.glob("*.before-*"))


def test_a_broken_migration_leaves_the_old_schema(file: Path, tmp_path: Path) -> None:
    """A script that fails after its first statement changes nothing; with the right script it runs through."""
    with pytest.raises(ZeroDivisionError):
        migrate(file, longer(tmp_path, "1 / 0"))
    assert read(file, "SELECT version_num FROM anomalyd_schema") == "0004"
    assert read(file, "SELECT count(*) FROM pragma_table_info('slots') WHERE name = 'note'") == 0
    migrate(file, longer(tmp_path))
    assert read(file, "SELECT note FROM slots") == "new"


def test_a_newer_schema_is_refused_untouched(file: Path, tmp_path: Path) -> None:
    """A file of a newer version is not opened and not one byte of it changes."""
    migrate(file, longer(tmp_path))
    before = file.read_bytes()
    with pytest.raises(SchemaTooNew) as caught:
        open_store(f"sqlite:///{file}")
    assert caught.value.reason == "too_new"
    assert str(file) in str(caught.value)
    assert "0005" in str(caught.value)
    assert file.read_bytes() == before


def test_an_earlier_copy_is_kept(file: Path, tmp_path: Path) -> None:
    """A migration that was broken off and starts again does not overwrite the copy it made first."""
    copy = file.with_name("anomalyd.db.before-0005-from-0004")
    copy.write_text("the first copy")
    migrate(file, longer(tmp_path))
    assert copy.read_text() == "the first copy"


@pytest.mark.parametrize("url", ["mysql://host/db", "nonsense", "", "redis://secret@host"])
def test_a_url_nobody_understands(url: str) -> None:
    """Another database's URL is refused with the two forms we take."""
    with pytest.raises(StoreError, match="sqlite:///") as caught:
        open_store(url)
    assert caught.value.reason == "connect"
    assert "secret" not in str(caught.value)
