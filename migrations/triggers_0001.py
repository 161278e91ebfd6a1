"""The triggers of revision 0001. Frozen with it: a later change to them is a later migration.

`belongs_to_result` is what a later revision calls for a table of its own whose rows are part of a result.
"""

from alembic import op

# What is ready never changes: an artifact can only be retired, a result and its scores not even that.
FROZEN = (
    "id",
    "kind",
    "name",
    "series",
    "version",
    "fingerprint",
    "spec",
    "provenance",
    "path",
    "created_at",
    "created_by",
)
IMMUTABLE = ("result", "result_concept_set", "cluster_score", "cluster_concept", "group_score")


def sqlite() -> None:
    same = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in FROZEN)
    op.execute(
        "CREATE TRIGGER artifact_keep_update BEFORE UPDATE ON artifact "
        "WHEN OLD.state = 'retired' AND NOT (NEW.state = 'retired') "
        f"OR OLD.state IN ('ready', 'retired') AND NOT (NEW.state IN ('ready', 'retired') AND {same}) "
        "BEGIN SELECT RAISE(ABORT, 'what is ready never changes: it can only be retired'); END"
    )
    op.execute(
        "CREATE TRIGGER artifact_keep_delete BEFORE DELETE ON artifact WHEN OLD.state = 'ready' "
        "BEGIN SELECT RAISE(ABORT, 'what is ready is not deleted: retire it first'); END"
    )
    for table in IMMUTABLE:
        belongs_to_result(table)


def postgres() -> None:
    same = " AND ".join(f"NEW.{column} IS NOT DISTINCT FROM OLD.{column}" for column in FROZEN)
    op.execute(
        "CREATE FUNCTION qrp_artifact_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF TG_OP = 'DELETE' THEN IF OLD.state = 'ready' THEN "
        "RAISE EXCEPTION 'what is ready is not deleted: retire it first'; END IF; RETURN OLD; END IF; "
        "IF OLD.state = 'retired' AND NEW.state <> 'retired' "
        f"OR OLD.state IN ('ready', 'retired') AND NOT (NEW.state IN ('ready', 'retired') AND {same}) THEN "
        "RAISE EXCEPTION 'what is ready never changes: it can only be retired'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER artifact_keep BEFORE UPDATE OR DELETE ON artifact "
        "FOR EACH ROW EXECUTE FUNCTION qrp_artifact_keep()"
    )
    for table in IMMUTABLE:
        belongs_to_result(table)


def belongs_to_result(table: str) -> None:
    """Refuse every change of this table's rows once the result that they belong to is ready."""
    row = "artifact_pk" if table == "result" else "result_pk"
    if op.get_bind().dialect.name == "sqlite":
        _result_sqlite(table, row)
    else:
        _result_postgres(table, row)


def _result_sqlite(table: str, row: str) -> None:
    for verb, side, states in (
        ("INSERT", "NEW", "('ready', 'retired')"),
        ("UPDATE", "OLD", "('ready', 'retired')"),
        ("DELETE", "OLD", "('ready')"),
    ):
        op.execute(
            f"CREATE TRIGGER {table}_keep_{verb.lower()} BEFORE {verb} ON {table} "
            f"WHEN (SELECT state FROM artifact WHERE pk = {side}.{row}) IN {states} "
            "BEGIN SELECT RAISE(ABORT, 'a result never changes'); END"
        )


def _result_postgres(table: str, row: str) -> None:
    op.execute(
        f"CREATE FUNCTION qrp_{table}_keep() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE found text; BEGIN "
        f"SELECT state INTO found FROM artifact WHERE pk = "
        f"CASE WHEN TG_OP = 'INSERT' THEN NEW.{row} ELSE OLD.{row} END; "
        "IF found = 'ready' OR found = 'retired' AND TG_OP <> 'DELETE' THEN "
        "RAISE EXCEPTION 'a result never changes'; END IF; "
        "RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_keep BEFORE INSERT OR UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION qrp_{table}_keep()"
    )
