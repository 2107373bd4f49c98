package main

import (
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/storetest"
)

var server *pgtest.Server

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m, &server, nil)) }

func connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func exec(t *testing.T, database, sql string) {
	t.Helper()
	if _, err := connect(t, database).Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresUpDownStatusTo(t *testing.T) {
	t.Parallel()
	db, newest := server.Database(t), newestVersion(t)
	for _, step := range []struct{ args, want string }{
		{"status", fmt.Sprintf("version 0 of %d", newest)},
		{"up", "applied 00001_initial.sql"},
		{"up", fmt.Sprintf("the schema is at version %d of %d", newest, newest)},
		{"status", "00001_initial.sql"},
		{"down", fmt.Sprintf("taken back %05d_", newest)},
		{"to 0", "taken back 00001_initial.sql"},
		{"to 1", "applied 00001_initial.sql"},
		{fmt.Sprint("to ", newest), fmt.Sprintf("applied %05d_", newest)},
	} {
		code, out, errs := runIn(t, map[string]string{"AETHERIUM_DATABASE": db}, strings.Fields(step.args)...)
		if code != 0 || !strings.Contains(out, step.want) {
			t.Fatalf("%s: code %d, %q, %q", step.args, code, out, errs)
		}
	}
	exec(t, db, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)")
	for _, args := range []string{"up", "down", "to 1"} {
		if code, _, errs := run(t, "", append([]string{"--db", db}, strings.Fields(args)...)...); code != 1 || !strings.Contains(errs, "schema version 999") {
			t.Errorf("%s with a newer schema: %d, %q", args, code, errs)
		}
	}
	if code, out, _ := run(t, "", "--db", db, "status"); code != 0 || !strings.Contains(out, "a newer program made it") {
		t.Errorf("status of a newer schema: %d, %q", code, out)
	}
	secret := strings.Replace(server.URL("absent"), "postgres@", "postgres:S3cret@", 1)
	if code, out, errs := run(t, "", "--db", secret, "up"); code != 1 || !strings.Contains(errs, "hint:") || strings.Contains(out+errs, "S3cret") {
		t.Errorf("no database: %d, %q, %q", code, out, errs)
	}
}

// Of several that migrate at once one does, and the others find it done.
func TestPostgresConcurrentRuns(t *testing.T) {
	t.Parallel()
	db := server.Database(t)
	outs := make([]string, 5)
	var wg sync.WaitGroup
	for i := range outs {
		wg.Go(func() {
			code, out, errs := run(t, "", "--db", db, "up")
			if code != 0 {
				t.Errorf("code %d, %q", code, errs)
			}
			outs[i] = out
		})
	}
	wg.Wait()
	if n := strings.Count(strings.Join(outs, ""), "applied 00001_initial.sql"); n != 1 {
		t.Errorf("the first migration was applied %d times", n)
	}
}

// deployment is a file with rows in every table.
func deployment(t *testing.T) string {
	t.Helper()
	ctx, file := t.Context(), filepath.Join(t.TempDir(), "aetherium.db")
	s, err := sqlite.Open(ctx, file, sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_700_000_000, 123_000).UTC()
	p, owner := domain.NewID(), domain.NewID()
	tmpl := &domain.Template{ID: domain.NewID(), ProjectID: p, Name: "t", CreatedAt: at, UpdatedAt: at}
	build := &domain.Build{ID: domain.NewID(), ProjectID: p, TemplateID: tmpl.ID, State: domain.BuildReady, Platform: "linux/amd64", CreatedAt: at, ReadyAt: &at}
	vol := &domain.Volume{ID: domain.NewID(), ProjectID: p, Name: "v", WorkerID: owner, DiskBytes: 1 << 40, TokenSealed: []byte{0, 1, 255}, CreatedAt: at}
	vm := &domain.VM{
		ID: domain.NewID(), ProjectID: p, Name: "nul\x00 and \xff and ☃", Metadata: map[string]string{"a": "b\x00"}, EnvSealed: []byte("\x00sealed"),
		Spec:    domain.VMSpec{Template: "t", BuildID: build.ID, Mounts: []domain.Mount{{VolumeID: vol.ID, Source: "v", Target: "/v"}}},
		Desired: domain.WantRunning, Observed: domain.Running, WorkerID: owner, CreatedAt: at, UpdatedAt: at, Deadline: &at,
	}
	vm.Spec.Resources = domain.Resources{MilliCPU: 1, MemoryBytes: 2, DiskBytes: 3, PIDs: 4}
	snap := &domain.Snapshot{
		ID: domain.NewID(), ProjectID: p, VMID: vm.ID, Name: "s", CreatedAt: at,
		Packed: &domain.Packed{Store: "file:///store", Digest: "sha256:1", Bytes: 1},
	}
	task := func(id domain.ID) *domain.Task {
		return &domain.Task{ID: id, ProjectID: p, Kind: "k", WorkerID: owner, State: domain.TaskPending, Args: []byte(`{"a": [1]}`), CreatedAt: at, UpdatedAt: at, RunAt: at}
	}
	first, then, hook := domain.NewID(), domain.NewID(), domain.NewID()
	code, limit := 7, int64(3)
	x := &domain.Execution{ID: domain.NewID(), ProjectID: p, VMID: vm.ID, State: domain.ExecutionExited, ExitCode: &code, CreatedAt: at, EndedAt: &at}
	pack := &domain.OutputPack{ID: domain.NewID(), ProjectID: p, Packed: *snap.Packed, KeySealed: []byte{0, 1, 255}, CreatedAt: at}
	err = s.Update(ctx, func(tx storage.Tx) error {
		steps := []error{
			tx.Projects().Insert(ctx, &domain.Project{ID: p, Name: "p", CreatedAt: at}),
			tx.Settings().Set(ctx, "k", "v"),
			tx.Workers().Insert(ctx, &domain.Worker{ID: owner, Name: "w", SeenAt: at, JoinedAt: at}),
			tx.JoinTokens().Insert(ctx, &domain.JoinToken{ID: domain.NewID(), Hash: [32]byte{1}, CreatedAt: at, ExpiresAt: at}),
			tx.Templates().Insert(ctx, tmpl), tx.Builds().Insert(ctx, build), tx.Builds().Copied(ctx, build, owner),
			tx.Volumes().Insert(ctx, vol), tx.VMs().Insert(ctx, vm),
			tx.Machines().Insert(ctx, &domain.Machine{ID: domain.NewID(), WorkerID: owner, VMID: vm.ID, Handle: []byte{1}, CreatedAt: at}),
			tx.Executions().Insert(ctx, x),
			tx.Snapshots().Insert(ctx, snap), tx.Snapshots().Copied(ctx, snap, owner),
			tx.Tasks().Insert(ctx, task(first)), tx.Tasks().Insert(ctx, task(then)), tx.Tasks().Wait(ctx, p, then, []domain.ID{first}),
			tx.Usage().Record(ctx, domain.Usage{ProjectID: p, VMID: vm.ID, From: at, To: at.Add(time.Second), CPUSeconds: 0.1, MemoryByteSec: 1e18 + 1}),
			tx.Keys().Insert(ctx, &domain.APIKey{ID: domain.NewID(), ProjectID: p, Hash: [32]byte{1}, CreatedAt: at}),
			tx.Users().Insert(ctx, &domain.User{ID: owner, Name: "u", CreatedAt: at, UpdatedAt: at}),
			tx.Members().Put(ctx, &domain.Member{ProjectID: p, UserID: owner, Role: domain.RoleViewer, CreatedAt: at}),
			tx.Idempotency().Insert(ctx, &storage.Idempotent{ProjectID: p, Key: "k", CreatedAt: at, ExpiresAt: at}),
			tx.Answers().Insert(ctx, &storage.Answer{ID: storage.AnswerID("k"), ProjectID: p, RequestDigest: "d", AnswerSealed: []byte{0, 255}, CreatedAt: at, ExpiresAt: at}),
			tx.Secrets().Put(ctx, &domain.Secret{ID: domain.NewID(), ProjectID: p, Name: "S", Sealed: []byte("sealed"), CreatedAt: at, UpdatedAt: at}),
			tx.Webhooks().Insert(ctx, &domain.Webhook{ID: hook, ProjectID: p, URL: "https://localhost/", Types: []string{"vm.running"}, SecretSealed: []byte{0, 255}, CreatedAt: at}),
			tx.Webhooks().Deliver(ctx, &domain.Delivery{ID: domain.NewID(), ProjectID: p, WebhookID: hook, Seq: 1, Type: "vm.running", Body: "{}"}),
			tx.Quotas().PutOverride(ctx, p, domain.QuotaOverride{VMs: &limit}),
			tx.Archives().Insert(ctx, &domain.Archive{ID: domain.NewID(), ProjectID: p, WorkerID: owner, VMs: 1, FirstAt: at, LastAt: at, CreatedAt: at, KeySealed: []byte{0, 255}, Content: []byte{0, 255}}),
			tx.Uploads().Insert(ctx, &domain.Upload{ID: domain.NewID(), ProjectID: p, WorkerID: owner, SizeBytes: 1 << 40, SHA256: "ab", CreatedAt: at, ExpiresAt: at}),
			tx.Audit().Insert(ctx, &domain.AuditRecord{ID: domain.NewID(), ProjectID: p, At: at, Operation: "o"}),
		}
		for range 5 {
			steps = append(steps, tx.Outbox().Append(ctx, &domain.Event{ProjectID: p, Type: "t", Subject: vm.ID, VMID: vm.ID, Data: []byte("{}"), At: at}))
		}
		tmpl.Tags = map[string]domain.ID{"latest": build.ID}
		steps = append(steps, tx.Templates().Update(ctx, tmpl))
		// Numbers of events are not used again though the newest are gone.
		_, err := tx.Outbox().DeleteBefore(ctx, at.Add(time.Hour), 2)
		_, perr := tx.OutputPacks().Insert(ctx, pack, x)
		return errors.Join(append(steps, err, perr)...)
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// A deployment is copied with everything in it, and goes on where it was.
func TestCopy(t *testing.T) {
	t.Parallel()
	file, db := deployment(t), server.Database(t)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(t, "", "copy", "--from", "sqlite:"+file, "--to", db)
	if code != 0 || !strings.Contains(out, "came back as they were") {
		t.Fatalf("code %d, %q, %q", code, out, errs)
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "0" {
			t.Errorf("nothing of %s was tried", f[0])
		}
	}
	if after, err := os.ReadFile(file); err != nil || !slices.Equal(before, after) {
		t.Errorf("what was copied is another afterwards (%v)", err)
	}
	a, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := postgres.Open(t.Context(), db, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var said [2]string
	for i, s := range []storage.Store{a, b} {
		t.Cleanup(func() { _ = s.Close() })
		err := s.Update(t.Context(), func(tx storage.Tx) error {
			vms, err := tx.VMs().List(t.Context(), storage.VMFilter{Metadata: map[string]string{"a": "b\x00"}})
			if err != nil || len(vms.Items) != 1 {
				return fmt.Errorf("%d VMs: %w", len(vms.Items), err)
			}
			vm := vms.Items[0]
			used, err := tx.Usage().Sum(t.Context(), storage.UsageFilter{VMID: vm.ID})
			if err != nil {
				return err
			}
			events, err := tx.Outbox().List(t.Context(), storage.EventFilter{})
			if err != nil {
				return err
			}
			next := &domain.Event{Type: "next", At: vm.CreatedAt}
			if err := tx.Outbox().Append(t.Context(), next); err != nil {
				return err
			}
			deadline := *vm.Deadline
			vm.Deadline = nil // a pointer
			said[i] = fmt.Sprintf("%+v %s %+v %+v %d", *vm, deadline, used, events, next.Seq)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if said[0] != said[1] {
		t.Errorf("SQLite %s\nPostgreSQL %s", said[0], said[1])
	}
	for _, s := range []storage.Store{a, b} {
		summed(t, s)
		err := s.Update(t.Context(), func(tx storage.Tx) error {
			vms, err := tx.VMs().List(t.Context(), storage.VMFilter{})
			if err != nil {
				return err
			}
			more := *vms.Items[0]
			more.ID, more.Name, more.Spec.Mounts = domain.NewID(), "more", nil
			return tx.VMs().Insert(t.Context(), &more)
		})
		if err != nil {
			t.Fatal(err)
		}
		summed(t, s)
	}
}

// summed fails a test unless the sums that are kept are those that are counted.
func summed(t *testing.T, s storage.Store) {
	t.Helper()
	wrong, err := storetest.Sums(t.Context(), s)
	if err != nil || len(wrong) > 0 {
		t.Errorf("%v, %v", wrong, err)
	}
}

// What was there before sums were kept is in them.
func TestSumsOfWhatThereWas(t *testing.T) {
	t.Parallel()
	file, db := deployment(t), server.Database(t)
	if code, _, errs := run(t, "", "copy", "--from", "sqlite:"+file, "--to", db); code != 0 {
		t.Fatal(errs)
	}
	raw, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	for name, alter := range map[string]func(statement string) error{
		file: func(statement string) error { _, err := raw.ExecContext(t.Context(), statement); return err },
		db:   func(statement string) error { _, err := connect(t, db).Exec(t.Context(), statement); return err },
	} {
		if code, _, errs := run(t, "", "--db", name, "to", "15"); code != 0 {
			t.Fatal(errs)
		}
		// Nobody sums it.
		if err := alter("UPDATE vms SET milli_cpu = 7, memory_bytes = 8, disk_bytes = 9, pids = 10"); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := run(t, "", "--db", name, "up"); code != 0 {
			t.Fatal(errs)
		}
		var w *domain.Worker
		s, err := open(t, name)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(s.View(t.Context(), func(tx storage.Tx) (err error) {
			w, err = tx.Workers().ByName(t.Context(), "w")
			return err
		}), s.Close())
		want := domain.Resources{MilliCPU: 7, MemoryBytes: 8, DiskBytes: 1<<40 + 9, PIDs: 10}
		if err != nil || w.Reserved != want || w.VMs != 1 || w.Active != 1 || w.Tasks != 2 {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
}

// open opens a file or a database.
func open(t *testing.T, name string) (storage.Store, error) {
	t.Helper()
	if postgres.IsURL(name) {
		return postgres.Open(t.Context(), name, postgres.Options{})
	}
	return sqlite.Open(t.Context(), name, sqlite.Options{})
}

// What cannot be copied as it is leaves nothing behind.
func TestCopyRefused(t *testing.T) {
	t.Parallel()
	file, db := deployment(t), server.Database(t)
	dir := filepath.Dir(file)
	refused := func(what, says string) {
		t.Helper()
		code, out, errs := runIn(t, map[string]string{"AETHERIUM_DATA_DIR": dir, "AETHERIUM_DATABASE": db}, "copy")
		if code != 1 || !strings.Contains(errs, says) || !strings.Contains(errs, "hint:") || strings.Contains(out, "came back") {
			t.Errorf("%s: %d, %q, %q", what, code, out, errs)
		}
	}
	s, err := sqlite.Open(t.Context(), file, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	refused("a server has the file open", "somebody else has")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	alone, err := postgres.Open(t.Context(), db, postgres.Options{Alone: true})
	if err != nil {
		t.Fatal(err)
	}
	refused("a server has the database open", "another server uses this database")
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "INSERT INTO settings (key, value) VALUES ('k', 'v')")
	refused("there are rows already", "is not empty")
	exec(t, db, "DELETE FROM settings")

	// A row that refers to nothing, which the file's own program never writes.
	raw, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	alter := func(statement string) {
		t.Helper()
		if _, err := raw.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	alter("INSERT INTO quotas (project_id, vms) VALUES ('nowhere', 1)")
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	refused("a row that refers to nothing", "rows of quotas break a rule")
	var n int // of what comes before in the copy
	if err := connect(t, db).QueryRow(t.Context(), "SELECT (SELECT count(*) FROM projects) + (SELECT count(*) FROM settings)").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows of a copy that failed, %v", n, err)
	}
	if raw, err = sql.Open("sqlite", file); err != nil {
		t.Fatal(err)
	}
	alter("DELETE FROM quotas WHERE project_id = 'nowhere'")
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	exec(t, db, `CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.value = 'other'; RETURN NEW; END $$;
		CREATE TRIGGER other BEFORE INSERT ON settings FOR EACH ROW EXECUTE FUNCTION other()`)
	if code, _, errs := run(t, dir, "copy", "--to", db); code != 1 || !strings.Contains(errs, "settings came back otherwise") {
		t.Errorf("a value that changes on its way: %d, %q", code, errs)
	}
	exec(t, db, "DROP FUNCTION other CASCADE")
	if code, _, errs := run(t, dir, "down"); code != 0 {
		t.Fatal(errs)
	}
	refused("an older schema", "schema version")
	if code, _, errs := run(t, dir, "up"); code != 0 {
		t.Fatal(errs)
	}
	if code, out, errs := run(t, dir, "copy", "--to", db); code != 0 {
		t.Errorf("in the end: %q, %q", out, errs)
	}

	for _, tc := range []struct{ args, says string }{
		{"copy", "which file"},
		{"copy --from a.db", "which database"},
		{"copy --from a.db --to b.db", "which database"},
		{"copy --from postgres://h/a --to postgres://h/b", "which file"},
		{"copy this", "takes no"},
	} {
		if code, _, errs := runIn(t, nil, strings.Fields(tc.args)...); code != 2 || !strings.Contains(errs, tc.says) {
			t.Errorf("%s: %d, %q", tc.args, code, errs)
		}
	}
	if code, _, errs := runIn(t, nil, "copy", "--from", filepath.Join(dir, "absent.db"), "--to", db); code != 1 || !strings.Contains(errs, "there is no database") {
		t.Errorf("an absent file: %d, %q", code, errs)
	}
}
