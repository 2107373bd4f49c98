package rekey_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/rekey"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlite"
	"github.com/aetherium/aetherium/services/core/pkg/storage/sqlitetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is a store with sealed values of every kind, beside its key file.
type lab struct {
	t      testing.TB
	dir    string
	values map[string]string // by place
}

func (l *lab) store() storage.Store {
	l.t.Helper()
	s, err := sqlitetest.Open(l.t.Context(), filepath.Join(l.dir, "db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	must(l.t, err)
	return s
}

func (l *lab) ring() *seal.Keys {
	l.t.Helper()
	ring, err := seal.LoadFile(filepath.Join(l.dir, "key"))
	must(l.t, err)
	return ring
}

// with runs f on the open store.
func (l *lab) with(f func(storage.Store)) {
	l.t.Helper()
	s := l.store()
	f(s)
	must(l.t, s.Close())
}

const perKind = 80

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), values: map[string]string{}}
	sealer, now := seal.New(l.ring()), time.Now().UTC().Truncate(time.Microsecond)
	put := func(place string) []byte {
		l.values[place] = "value of " + place
		sealed, err := sealer.Seal(t.Context(), place, []byte(l.values[place]))
		must(t, err)
		return sealed
	}
	l.with(func(s storage.Store) {
		must(t, s.Update(t.Context(), func(tx storage.Tx) error {
			project := domain.NewID()
			must(t, tx.Projects().Insert(t.Context(), &domain.Project{ID: project, Name: "p", CreatedAt: now}))
			must(t, tx.Settings().Set(t.Context(), storage.SettingKeyCheck, base64.StdEncoding.EncodeToString(put(storage.SealedSetting(storage.SettingKeyCheck)))))
			for range perKind {
				vm := &domain.VM{
					ID: domain.NewID(), ProjectID: project, Spec: domain.VMSpec{Template: "base", Driver: "oci", Platform: "linux/amd64", Network: domain.NetworkNone},
					Isolation: domain.IsolationContainer, Desired: domain.WantRunning, Observed: domain.Pending, PauseMode: domain.PauseFreeze,
					OnTimeout: domain.TimeoutKill, Generation: 1, CreatedAt: now, UpdatedAt: now,
				}
				vm.EnvSealed, vm.TokenSealed = put(storage.SealedVMEnv(vm.ID)), put(storage.SealedVMToken(vm.ID))
				must(t, tx.VMs().Insert(t.Context(), vm))
				x := &domain.Execution{ID: domain.NewID(), ProjectID: project, VMID: vm.ID, State: domain.ExecutionRunning, CreatedAt: now}
				x.CommandSealed = put(storage.SealedCommand(x.ID))
				must(t, tx.Executions().Upsert(t.Context(), x))
				snap := &domain.Snapshot{ID: domain.NewID(), ProjectID: project, VMID: vm.ID, Driver: "oci", Kind: domain.SnapshotDisk, State: domain.BuildReady, CreatedAt: now}
				snap.EnvSealed = put(storage.SealedSnapshotEnv(snap.ID))
				must(t, tx.Snapshots().Insert(t.Context(), snap))
				secret := &domain.Secret{ID: domain.NewID(), ProjectID: project, CreatedAt: now, UpdatedAt: now}
				secret.Name = "s" + string(secret.ID)
				secret.Sealed = put(storage.SealedSecret(secret))
				must(t, tx.Secrets().Put(t.Context(), secret))
			}
			return nil
		}))
	})
	return l
}

// open checks that every value opens with a keyring.
func (l *lab) open(s storage.Store, ring seal.Keyring) {
	l.t.Helper()
	sealer, seen := seal.New(ring), 0
	check := func(place string, sealed []byte) error {
		seen++
		if got, err := sealer.Open(l.t.Context(), place, sealed); err != nil || string(got) != l.values[place] {
			return fmt.Errorf("%s: %q, %w", place, got, err)
		}
		return nil
	}
	must(l.t, s.View(l.t.Context(), func(tx storage.Tx) error {
		vms, err := tx.VMs().List(l.t.Context(), storage.VMFilter{Page: storage.Page{Limit: storage.MaxPage}})
		must(l.t, err)
		for _, vm := range vms.Items {
			must(l.t, check(storage.SealedVMEnv(vm.ID), vm.EnvSealed))
			must(l.t, check(storage.SealedVMToken(vm.ID), vm.TokenSealed))
			open, err := tx.Executions().Open(l.t.Context(), vm.ID)
			must(l.t, err)
			for _, x := range open {
				must(l.t, check(storage.SealedCommand(x.ID), x.CommandSealed))
			}
			secrets, err := tx.Secrets().List(l.t.Context(), vm.ProjectID)
			must(l.t, err)
			if vm == vms.Items[0] {
				for _, named := range secrets {
					secret, err := tx.Secrets().Get(l.t.Context(), named.ProjectID, named.Name)
					must(l.t, err)
					must(l.t, check(storage.SealedSecret(secret), secret.Sealed))
				}
			}
		}
		snaps, err := tx.Snapshots().List(l.t.Context(), storage.SnapshotFilter{Page: storage.Page{Limit: storage.MaxPage}})
		must(l.t, err)
		for _, snap := range snaps.Items {
			must(l.t, check(storage.SealedSnapshotEnv(snap.ID), snap.EnvSealed))
		}
		text, err := tx.Settings().Get(l.t.Context(), storage.SettingKeyCheck)
		must(l.t, err)
		sealed, err := base64.StdEncoding.DecodeString(text)
		must(l.t, err)
		return check(storage.SealedSetting(storage.SettingKeyCheck), sealed)
	}))
	if seen != len(l.values) {
		l.t.Fatalf("%d values are there, %d were put", seen, len(l.values))
	}
}

func (l *lab) addKey() *seal.Keys {
	l.t.Helper()
	ring, err := seal.AddToFile(filepath.Join(l.dir, "key"))
	must(l.t, err)
	return ring
}

func TestRewrap(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	old := l.ring().IDs()[0]
	ring := l.addKey()
	fresh := ring.IDs()[0]
	l.with(func(s storage.Store) {
		u, err := rekey.Survey(t.Context(), s)
		if err != nil || u.Count(old) != len(l.values) || u.Count(fresh) != 0 || u.Columns(old)["secrets.sealed"] != perKind {
			t.Fatalf("before: %+v, %v", u, err)
		}
		last := 0
		res, err := rekey.Rewrap(t.Context(), s, ring, func(r rekey.Result) {
			if r.Done <= last {
				t.Errorf("progress goes from %d to %d", last, r.Done)
			}
			last = r.Done
		})
		if err != nil || res != (rekey.Result{Newest: fresh, Done: len(l.values)}) || last != res.Done {
			t.Fatalf("%+v, %v", res, err)
		}
		u, err = rekey.Survey(t.Context(), s)
		if err != nil || u.Count(old) != 0 || u.Count(fresh) != len(l.values) || len(u.Keys()) != 1 || len(u.Damaged) != 0 {
			t.Fatalf("after: %+v, %v", u, err)
		}
		if res, err := rekey.Rewrap(t.Context(), s, ring, nil); err != nil || res.Done != 0 {
			t.Errorf("again: %+v, %v", res, err)
		}
		must(t, seal.RemoveFromFile(filepath.Join(l.dir, "key"), old))
		l.open(s, l.ring())
	})
}

// A keyring without the right key changes nothing, and says how much it could not do.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	wrong, err := seal.Parse(seal.NewKey())
	must(t, err)
	l.with(func(s storage.Store) {
		res, err := rekey.Rewrap(t.Context(), s, wrong, nil)
		if err != nil || res.Done != 0 || res.Failed != len(l.values) {
			t.Errorf("%+v, %v", res, err)
		}
		l.open(s, l.ring())
	})
}

// away is a keyring that goes away after some questions.
type away struct {
	seal.Keyring
	left int
}

func (a *away) Wrap(ctx context.Context, key []byte) (string, []byte, error) {
	if a.left--; a.left < 0 {
		return "", nil, errors.New(errors.Unavailable, "away")
	}
	return a.Keyring.Wrap(ctx, key)
}

// A keyring that goes away in the middle ends it, and every value opens.
func TestTheKeyringGoesAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ring := l.addKey()
	l.with(func(s storage.Store) {
		res, err := rekey.Rewrap(t.Context(), s, &away{ring, perKind + 17}, nil)
		if !errors.HasCode(err, errors.Unavailable) || res.Done == 0 || res.Done > perKind+17 {
			t.Errorf("%+v, %v", res, err)
		}
		l.open(s, ring)
		res, err = rekey.Rewrap(t.Context(), s, ring, nil)
		if err != nil || res.Failed != 0 || res.Done == 0 || res.Done == len(l.values) {
			t.Errorf("it is back: %+v, %v", res, err)
		}
		l.open(s, ring)
	})
}

func TestDamage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ring := l.addKey()
	l.with(func(s storage.Store) {
		must(t, s.Update(t.Context(), func(tx storage.Tx) error {
			values, err := tx.Sealed().Page(t.Context(), "secrets.sealed", "", 2)
			must(t, err)
			bad := append([]byte(nil), values[0].Sealed...)
			bad[40] ^= 1 // in the wrapped key
			for i, is := range [][]byte{bad, []byte("no record")} {
				if ok, err := tx.Sealed().Replace(t.Context(), "secrets.sealed", values[i].Row, values[i].Sealed, is); !ok || err != nil {
					t.Errorf("%v, %v", ok, err)
				}
			}
			return nil
		}))
		res, err := rekey.Rewrap(t.Context(), s, ring, nil)
		if err != nil || res.Failed != 2 || res.Done != len(l.values)-2 {
			t.Errorf("%+v, %v", res, err)
		}
		u, err := rekey.Survey(t.Context(), s)
		if err != nil || u.Damaged["secrets.sealed"] != 1 || u.Count(ring.IDs()[1]) != 1 {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

// TestMain lets the test binary be a process that rewraps, to be killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("REKEY_TEST_DIR"); dir != "" {
		os.Exit(rewrapHere(dir))
	}
	os.Exit(m.Run())
}

func rewrapHere(dir string) int {
	ctx := context.Background()
	s, err := sqlitetest.Open(ctx, filepath.Join(dir, "db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ring, err := seal.LoadFile(filepath.Join(dir, "key"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	steps := 0
	_, err = rekey.Rewrap(ctx, s, ring, func(r rekey.Result) {
		steps++
		fmt.Println("step", steps)
		if fmt.Sprint(steps) == os.Getenv("REKEY_TEST_STOP") {
			select {} // until it is killed
		}
	})
	fmt.Println("done", err)
	return 0
}

// A process that is killed in the middle leaves a store of which every value
// opens, and the next one does the rest.
func TestKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	old := l.ring().IDs()[0]
	ring := l.addKey()
	exe, err := os.Executable()
	must(t, err)
	for _, stop := range []string{"1", "4", "2"} {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env = append(os.Environ(), "REKEY_TEST_DIR="+l.dir, "REKEY_TEST_STOP="+stop)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "step "+stop {
			if !strings.HasPrefix(lines.Text(), "step ") {
				t.Fatal(lines.Text())
			}
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		l.with(func(s storage.Store) {
			u, err := rekey.Survey(t.Context(), s)
			if err != nil || u.Count(old) == 0 || u.Count(ring.IDs()[0]) == 0 {
				t.Errorf("it was not in the middle: %+v, %v", u, err)
			}
			l.open(s, ring)
		})
	}
	l.with(func(s storage.Store) {
		if _, err := rekey.Rewrap(t.Context(), s, ring, nil); err != nil {
			t.Fatal(err)
		}
		must(t, seal.RemoveFromFile(filepath.Join(l.dir, "key"), old))
		l.open(s, l.ring())
	})
}
