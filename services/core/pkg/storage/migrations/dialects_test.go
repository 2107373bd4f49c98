package migrations_test

import (
	"context"
	"database/sql"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite" // registers the driver under the name "sqlite"

	"github.com/aetherium/aetherium/services/core/pkg/storage/migrations"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

const sqliteSchema = `
SELECT 'column ' || t.name || '.' || c.name || ' ' || c.type || CASE WHEN c."notnull" THEN ' not null' ELSE '' END || CASE WHEN c.pk THEN ' key ' || c.pk ELSE '' END
	FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'goose_db_version'
UNION ALL
SELECT 'index ' || t.name || '.' || i.name || ' ' || i."unique" || i.partial || ' ' || (SELECT group_concat(name) FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno))
	FROM sqlite_schema t, pragma_index_list(t.name) i WHERE t.type = 'table' AND i.origin = 'c'
UNION ALL
SELECT 'reference ' || t.name || ' to ' || f."table" || ' ' || group_concat(f."from" || '=' || f."to") || ' ' || f.on_delete
	FROM sqlite_schema t, pragma_foreign_key_list(t.name) f WHERE t.type = 'table' GROUP BY t.name, f.id`

const postgresSchema = `
SELECT 'column ' || c.table_name || '.' || c.column_name || ' ' ||
	CASE c.data_type WHEN 'bigint' THEN 'INTEGER' WHEN 'text' THEN 'TEXT' WHEN 'bytea' THEN 'BLOB' WHEN 'double precision' THEN 'REAL' ELSE c.data_type END ||
	CASE WHEN c.is_nullable = 'NO' THEN ' not null' ELSE '' END || COALESCE(' key ' || (SELECT k.ordinal_position FROM information_schema.table_constraints p
		JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name) WHERE p.constraint_type = 'PRIMARY KEY' AND p.constraint_schema = 'public'
		AND p.table_name = c.table_name AND k.column_name = c.column_name), '')
	FROM information_schema.columns c WHERE c.table_schema = 'public' AND c.table_name <> 'goose_db_version'
UNION ALL
SELECT 'index ' || t.relname || '.' || n.relname || ' ' || i.indisunique::int || (i.indpred IS NOT NULL)::int || ' ' ||
	(SELECT string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = i.indexrelid)
	FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class n ON n.oid = i.indexrelid
	WHERE t.relnamespace = 'public'::regnamespace AND NOT i.indisprimary AND t.relname <> 'goose_db_version'
UNION ALL
SELECT 'reference ' || c.conrelid::regclass || ' to ' || c.confrelid::regclass || ' ' ||
	(SELECT string_agg(a.attname || '=' || b.attname, ',' ORDER BY k.n) FROM unnest(c.conkey, c.confkey) WITH ORDINALITY AS k (f, t, n)
		JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.f JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = k.t) ||
	CASE c.confdeltype WHEN 'c' THEN ' CASCADE' ELSE ' NO ACTION' END
	FROM pg_constraint c WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace`

// All dialects end in the same tables, columns, keys, references and indexes,
// at every version, and nothing is left of them at none.
func TestDialectsEndInTheSame(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "a.db")
	one, err := sqlite.OpenMigrator(file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Close() }()
	database := server.Database(t)
	other, err := postgres.OpenMigrator(database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	raw, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()

	all, err := one.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var versions []int64
	for _, m := range all {
		versions = append(versions, m.Version)
	}
	down := slices.Clone(versions)
	slices.Reverse(down)
	for _, version := range append(versions, append(down, 0)...) {
		for _, m := range []*migrations.Migrator{one, other} {
			if _, err := m.To(ctx, version); err != nil {
				t.Fatal(err)
			}
		}
		a, b := inSQLite(t, raw), inPostgres(ctx, t, conn)
		if (len(a) == 0) != (version == 0) {
			t.Fatalf("at version %d there is %v", version, a)
		}
		for _, s := range a {
			if !slices.Contains(b, s) {
				t.Errorf("version %d: only SQLite has %s", version, s)
			}
		}
		for _, s := range b {
			if !slices.Contains(a, s) {
				t.Errorf("version %d: only PostgreSQL has %s", version, s)
			}
		}
	}
}

func inSQLite(t *testing.T, db *sql.DB) (out []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), sqliteSchema)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func inPostgres(ctx context.Context, t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(ctx, postgresSchema)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What partial indexes are of is written alike: queries repeat it word for word.
func TestIndexesAreWrittenAlike(t *testing.T) {
	t.Parallel()
	index := regexp.MustCompile(`CREATE (UNIQUE )?INDEX [^;]+;`)
	of := func(files fs.FS) (out []string) {
		names, err := fs.Glob(files, "*.sql")
		if err != nil || len(names) == 0 {
			t.Fatalf("%v, %v", names, err)
		}
		for _, name := range names {
			text, err := fs.ReadFile(files, name)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range index.FindAllString(string(text), -1) {
				out = append(out, name+": "+strings.Join(strings.Fields(s), " "))
			}
		}
		return out
	}
	if a, b := of(migrations.SQLite()), of(migrations.Postgres()); !slices.Equal(a, b) {
		t.Errorf("SQLite %v\nPostgreSQL %v", a, b)
	}
}
