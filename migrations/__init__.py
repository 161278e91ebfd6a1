"""Schema migrations. Installed as `qrp_store.migrations`; run by `qrp_store.catalog.database.schema.upgrade`."""
