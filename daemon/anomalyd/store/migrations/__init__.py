"""Schema versions as Alembic scripts; run by ``store.upgrade``, never by hand."""
