package postgres_test

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
)

// planRows is how many rows the large tables have, for which it does not take
// long. AETHERIUM_TEST_PLAN_ROWS=1000000 is what the plans are made for.
const planRows = 20_000

// fill gives the tables as many rows as asked for, of 100 projects on 500
// workers, from 1000 builds. Half of the VMs are tombstones.
const fill = `
SET session_replication_role = replica; -- what is referred to needs no check
CREATE FUNCTION pg_temp.id(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT substr(md5(n::text), 1, 20) $$;
CREATE TEMP VIEW i AS SELECT i, pg_temp.id(i) AS id, pg_temp.id(i % 100) AS p, pg_temp.id(i % 500) AS w, pg_temp.id(i % 1000) AS b,
	i * 1000000 AS at, i % 2 = 0 AS ended FROM generate_series(1::bigint, $rows) AS i;
INSERT INTO projects SELECT pg_temp.id(i), i, i FROM generate_series(0, 99) AS i;
INSERT INTO workers SELECT pg_temp.id(i), i, '', '', '[]', 1, 1, 1, 1, 'ready', i, i, 1 FROM generate_series(0, 499) AS i;
INSERT INTO templates SELECT pg_temp.id(i), pg_temp.id(i % 100), i, CASE WHEN i < 5 THEN 1 ELSE 0 END, i, i, 1 FROM generate_series(0, 999) AS i;
INSERT INTO builds SELECT id, p, b, 'ready', '', '{}', '{}', '', '', '[]', '', '{}', '', '', at, at, 1, '{}' FROM i WHERE i % 10 = 0;
INSERT INTO vms SELECT id, p, 'vm-' || i, '{}', '{}', 't', b, b, '', 1000, 1, 1, 1, 'container', CASE WHEN ended THEN 'deleted' ELSE 'running' END,
	CASE WHEN ended THEN 'deleted' WHEN i % 1000 = 1 THEN 'pending' ELSE 'running' END, 'freeze', 1, 1, 1, w, id, CASE WHEN i % 3 = 0 THEN at END, 1,
	CASE WHEN i % 1000 = 3 THEN 0 ELSE 1 END, 'kill', 0, 0, NULL, NULL, '', NULL, at, at, at, CASE WHEN ended THEN at END, 1, 1 FROM i;
INSERT INTO vm_metadata SELECT id, p, k, i % 50 FROM i, unnest('{a,c}'::text[]) AS k;
INSERT INTO machines SELECT id, w, 'oci', NULL, b, 1000, 1, 1, 1, 'nat', CASE WHEN i % 20 = 1 THEN NULL ELSE id END, 1, at, 0 FROM i WHERE NOT ended;
INSERT INTO executions SELECT id, p, pg_temp.id(i / 10), 1, NULL, CASE WHEN i % 100 = 0 THEN 'running' ELSE 'exited' END, 1, 0, 0, '', 1, 0, at, at,
	CASE WHEN i % 100 = 0 THEN NULL ELSE at END, '' FROM i;
INSERT INTO output_packs SELECT id, p, '{}', '', at FROM i WHERE i % 10 = 0;
INSERT INTO uploads SELECT id, p, w, i, 1, '', at, at + 60000000 FROM i WHERE i % 10 = 0;
INSERT INTO archives SELECT id, p, w, 1, 1, 1, at, at, at, '', 1, '' FROM i WHERE i % 10 = 0;
UPDATE executions SET pack_id = pg_temp.id(i - i % 10) FROM i WHERE executions.id = i.id AND i % 3 > 0;
INSERT INTO snapshots SELECT id, p, pg_temp.id(i / 3), 's' || i, b, 'oci', '', 'disk', '{}', NULL, w, 1, 'ready', i % 2, at, 1 FROM i WHERE i % 4 = 0;
INSERT INTO names SELECT p, 's' || i, 'snapshot', id FROM i WHERE i % 4 = 0;
INSERT INTO tasks (id, project_id, kind, subject, state, args, result, error, attempts, max_attempts, cancel_asked, created_at, updated_at, run_at, ended_at, revision)
	SELECT id, p, CASE WHEN i % 3 = 0 THEN 'k' ELSE 'j' END, pg_temp.id(i / 5), CASE i % 1000 WHEN 0 THEN 'pending' WHEN 1 THEN 'running' ELSE 'succeeded' END,
	'', '', NULL, 1, 1, 0, at, at, at, CASE WHEN i % 1000 > 1 THEN at END, 1 FROM i;
INSERT INTO outbox (project_id, type, subject, vm_id, data, at) SELECT p, 't', id, pg_temp.id(i / 8), '{}', at FROM i;
INSERT INTO usage SELECT pg_temp.id(i / 30), p, at, at + 60000000, 1, 1, 1, 1 FROM i;
INSERT INTO api_keys SELECT id, p, i, '', sha256(id::bytea), '[]', at, NULL, NULL, NULL, '', '', NULL, NULL, NULL FROM i WHERE i % 10 = 0;
INSERT INTO users SELECT id, i, 'i', i, 0, '', NULL, at, at FROM i WHERE i % 10 = 0;
INSERT INTO memberships SELECT p, id, 'viewer', '', at FROM i WHERE i % 10 = 0;
INSERT INTO idempotency SELECT p, i, '', '', 200, at, at + 60000000 FROM i;
INSERT INTO answers SELECT i, p, '', NULL, at, at + 60000000 FROM i;
INSERT INTO secrets SELECT id, p, i, '', at, at FROM i WHERE i % 10 = 0;
INSERT INTO volumes SELECT id, p, i, w, 1, '', at FROM i WHERE i % 10 = 0;
INSERT INTO volume_mounts SELECT p, id, id FROM i WHERE i % 10 = 0;
INSERT INTO webhooks SELECT id, p, '', '[]', '', 0, NULL, NULL, '', at FROM i WHERE i % 1000 = 0;
INSERT INTO webhook_deliveries SELECT id, p, pg_temp.id(i - i % 1000), i, 't', '{}', CASE WHEN i % 100 = 0 THEN 'pending' ELSE 'delivered' END, 1, at, NULL, 0, '', at FROM i;
INSERT INTO worker_sums SELECT worker_id, 1, 1, 1, 1, count(*), 1, 0 FROM vms WHERE observed <> 'deleted' GROUP BY worker_id;
INSERT INTO project_sums SELECT project_id, 1, 1, 1, count(*) FROM vms WHERE observed <> 'deleted' GROUP BY project_id;
INSERT INTO join_tokens SELECT id, sha256(id::bytea), '', at, at + 60000000, NULL, '', NULL FROM i WHERE i % 10 = 0;
INSERT INTO audit SELECT id, p, at, 'a' || i % 100, id, id, 0, 0, 'o', 'vm', CASE WHEN ended THEN pg_temp.id(i / 20) ELSE '' END, pg_temp.id(i / 7), '', '', 200, '', '', 0 FROM i;
ANALYZE`

// Queries of lists and sweeps find their rows by indexes, however many there are.
func TestPlansUseIndexes(t *testing.T) {
	t.Parallel()
	rows := planRows
	if text := os.Getenv("AETHERIUM_TEST_PLAN_ROWS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		rows = n
	}
	database := server.Database(t)
	s := open(t, database)
	conn := connect(t, database)
	if _, err := conn.PgConn().Exec(t.Context(), strings.ReplaceAll(fill, "$rows", strconv.Itoa(rows))).ReadAll(); err != nil {
		t.Fatal(err)
	}
	// Tables that are small whatever there is of VMs may be read whole.
	large := map[string]bool{}
	tables, err := conn.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND reltuples > 1000")
	if err != nil {
		t.Fatal(err)
	}
	for tables.Next() {
		var name string
		if err := tables.Scan(&name); err != nil {
			t.Fatal(err)
		}
		large[name] = true
	}
	if err := tables.Err(); err != nil || len(large) < 15 {
		t.Fatalf("large are %v, %v", large, err)
	}
	var id, project domain.ID // the ID is a worker's, a build's, a template's and a VM's
	if err := conn.QueryRow(t.Context(), "SELECT substr(md5('7'), 1, 20), substr(md5('7'), 1, 20)").Scan(&id, &project); err != nil {
		t.Fatal(err)
	}
	check := func(name string, plans []string) (whole int) {
		for _, plan := range plans {
			for _, m := range seqScan.FindAllStringSubmatch(plan, -1) {
				if large[m[1]] {
					whole++
					t.Logf("%s reads all of %s:\n%s", name, m[1], plan)
				}
			}
		}
		return whole
	}
	// The check sees what it looks for.
	plans, err := s.Plans(t.Context(), func(ctx context.Context, tx storage.Tx) error {
		_, err := tx.VMs().List(ctx, storage.VMFilter{Template: "x"})
		return err
	})
	if err != nil || check("all VMs of a template (as it must)", plans) == 0 {
		t.Fatalf("not seen in %v, %v", plans, err)
	}
	now := time.UnixMicro(5_000_000) // few rows are that old
	for _, l := range storetest.Lookups(project, id, now) {
		plans, err := s.Plans(t.Context(), l.Run)
		if err != nil || len(plans) == 0 {
			t.Errorf("%s: %d statements, %v", l.Name, len(plans), err)
		}
		if check(l.Name, plans) > 0 {
			t.Errorf("%s reads all of a large table", l.Name)
		}
	}
}

var seqScan = regexp.MustCompile(`Seq Scan on (\w+)`)
