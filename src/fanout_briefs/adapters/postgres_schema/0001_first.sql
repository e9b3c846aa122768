-- The tables of fanout_briefs, version 1. PostgreSQL 13 or newer, database in UTF8.
--
-- PostgresStorage runs this by itself unless it is told not to. To run it yourself:
--
--     psql -v ON_ERROR_STOP=1 -1 -c 'CREATE SCHEMA fanout_briefs' -c 'SET search_path TO fanout_briefs' -f 0001_first.sql
--
-- Names are unqualified: they land in the first schema of the search_path. Keys are COLLATE "C", so that the
-- server puts them in the same order as the library does, whatever the database's own collation.

CREATE TABLE schema_version (
    version integer NOT NULL
);
INSERT INTO schema_version VALUES (1);

-- One row a slot, over all states and for good: the key makes planning exactly-once.
CREATE TABLE jobs (
    dedup_key    text COLLATE "C" PRIMARY KEY,
    type         text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    local_date   date NOT NULL,
    deliver_at   timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    window_start timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    window_fixed boolean NOT NULL DEFAULT false,
    status       text COLLATE "C" NOT NULL,
    code         text COLLATE "C",
    reason       text,
    error        text COLLATE "C",
    epoch        bigint NOT NULL,
    attempts     bigint NOT NULL,
    progress     text,
    demand       text COLLATE "C",
    token        bigint NOT NULL,
    lease_until  timestamptz
);
CREATE INDEX jobs_due ON jobs (type, run_at) WHERE status = 'pending';
CREATE INDEX jobs_held ON jobs (type, lease_until) WHERE status = 'processing';
CREATE INDEX jobs_of_user ON jobs (user_id, type, deliver_at, status);
-- Only of ended slots: planning and claiming them then does not pay for what operators ask.
CREATE INDEX jobs_by_delivery ON jobs (type, deliver_at, status, code)
    WHERE status IN ('completed', 'empty', 'skipped', 'cancelled', 'failed', 'unknown');

CREATE TABLE outbox (
    dedup_key text COLLATE "C" PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    payload   bytea NOT NULL
);

CREATE TABLE briefs (
    user_id    text COLLATE "C" NOT NULL,
    type       text COLLATE "C" NOT NULL,
    local_date date NOT NULL,
    deliver_at timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    body       bytea NOT NULL,
    PRIMARY KEY (user_id, type, local_date)
);
CREATE INDEX briefs_of_user ON briefs (user_id, type, deliver_at, local_date, window_end);

CREATE TABLE marks (
    name       text COLLATE "C" PRIMARY KEY,
    instant    timestamptz NOT NULL,
    planned_at timestamptz
);

CREATE TABLE pauses (
    type  text COLLATE "C" PRIMARY KEY,
    since timestamptz NOT NULL
);

CREATE TABLE preferences (
    user_id        text COLLATE "C" PRIMARY KEY,
    frequency      text,
    time_of_day    text,
    timezone       text,
    day_of_week    bigint,
    days           jsonb,
    is_active      boolean NOT NULL,
    effective_from timestamptz,
    -- The five columns that say when, as one text. It is cut for the index, far beyond what a usable schedule needs.
    schedule       text COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        left(
            quote_nullable(frequency) || quote_nullable(time_of_day) || quote_nullable(timezone)
                || coalesce(day_of_week::text, '-') || coalesce(days::text, '-'),
            240
        ) || ' ' || hashtextextended(
            quote_nullable(frequency) || quote_nullable(time_of_day) || quote_nullable(timezone)
                || coalesce(day_of_week::text, '-') || coalesce(days::text, '-'),
            0
        )::text
    ) STORED
);
-- A plan finds the few schedules that are due, then only the people who have them.
CREATE INDEX preferences_by_schedule ON preferences (schedule, user_id) INCLUDE (effective_from) WHERE is_active;

-- One row: the highest token of slots that were erased. New slots begin there, so that no old claim fits them.
CREATE TABLE fence (
    token bigint NOT NULL
);
INSERT INTO fence VALUES (0);
