"""The triggers of revision 0002. Frozen with it, once released."""

from alembic import op

IMMUTABLE = ("concept_score",)
"""What a result says of itself, written with it. What stands beside it (forward_score, …) may come later."""


def sqlite() -> None:
    for table in IMMUTABLE:
        for verb, side, states in (
            ("INSERT", "NEW", "('ready', 'retired')"),
            ("UPDATE", "OLD", "('ready', 'retired')"),
            ("DELETE", "OLD", "('ready')"),
        ):
            op.execute(
                f"CREATE TRIGGER {table}_keep_{verb.lower()} BEFORE {verb} ON {table} "
                f"WHEN (SELECT state FROM artifact WHERE pk = {side}.result_pk) IN {states} "
                "BEGIN SELECT RAISE(ABORT, 'a result never changes'); END"
            )


def postgres() -> None:
    for table in IMMUTABLE:
        op.execute(
            f"CREATE FUNCTION qrp_{table}_keep() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE found text; BEGIN "
            f"SELECT state INTO found FROM artifact WHERE pk = "
            f"CASE WHEN TG_OP = 'INSERT' THEN NEW.result_pk ELSE OLD.result_pk END; "
            "IF found = 'ready' OR found = 'retired' AND TG_OP <> 'DELETE' THEN "
            "RAISE EXCEPTION 'a result never changes'; END IF; "
            "RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_keep BEFORE INSERT OR UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION qrp_{table}_keep()"
        )
