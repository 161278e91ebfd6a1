-- Roles for a store on Postgres: qrp_reader looks, qrp_writer also makes and retires, qrp_owner also migrates.
-- Run it in the store's database as a superuser (or a role that may create roles), after `qrp-store init` and again after
-- every `qrp-store migrate`; repeating it is harmless:
--     psql "$QRP_STORE" -f docs/roles.sql
-- Then give people roles:   CREATE ROLE ada LOGIN PASSWORD '…' IN ROLE qrp_writer;
-- A store in a schema of its own: replace "public".

DO $$
DECLARE
    thing record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'qrp_reader') THEN CREATE ROLE qrp_reader NOLOGIN; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'qrp_writer') THEN CREATE ROLE qrp_writer NOLOGIN; END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'qrp_owner') THEN CREATE ROLE qrp_owner NOLOGIN; END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO qrp_reader, qrp_writer, qrp_owner', current_database());
    -- Only who owns a table may change its schema: tables first (their sequences follow), then views.
    FOR thing IN SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE 'ALTER TABLE ' || thing.name || ' OWNER TO qrp_owner';
    END LOOP;
    FOR thing IN SELECT format('%I.%I', schemaname, viewname) AS name FROM pg_views WHERE schemaname = 'public' LOOP
        EXECUTE 'ALTER VIEW ' || thing.name || ' OWNER TO qrp_owner';
    END LOOP;
    FOR thing IN
        SELECT oid::regprocedure::text AS name FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'qrp\_%'
    LOOP
        EXECUTE 'ALTER FUNCTION ' || thing.name || ' OWNER TO qrp_owner';
    END LOOP;
END $$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO qrp_reader, qrp_writer;
GRANT USAGE, CREATE ON SCHEMA public TO qrp_owner;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO qrp_reader, qrp_writer;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO qrp_writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO qrp_writer;
-- What the store is, and its schema, only the owner changes.
REVOKE INSERT, UPDATE, DELETE ON store, qrp_alembic_version FROM qrp_writer;
