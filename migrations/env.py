"""Alembic's entry. The connection and its transaction belong to the caller (config.attributes["connection"])."""

from alembic import context

from qrp_store.catalog.database.schema import VERSION_TABLE
from qrp_store.catalog.model.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=False,  # the caller's transaction is the only one
)
context.run_migrations()
