package e2e

import (
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/storage/pgtest"
)

// database is a PostgreSQL server for one test, and what names it.
func database(t *testing.T) (*pgtest.Server, string) {
	t.Helper()
	pg, err := pgtest.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	return pg, "AETHERIUM_DATABASE=" + pg.URL("postgres")
}

// The server is killed as on SQLite, with fewer seeds.
func TestKillNineOnPostgres(t *testing.T) {
	t.Parallel()
	_, setting := database(t)
	crash(t, 6, setting)
}

// The database goes away and comes back while VMs run: they run on, requests
// that need it are told so, and afterwards everything is as it was.
func TestPostgresGoesAndComesBack(t *testing.T) {
	t.Parallel()
	pg, setting := database(t)
	s := own(t, setting)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vm, err := c.CreateVM(limited(t), api.CreateVM{Name: "kept", Network: "none"})
	if err != nil {
		t.Fatal(err)
	}
	shell := func(script string) api.Execute {
		return api.Execute{Command: api.Command{Args: []string{"sh", "-c", script}}}
	}
	if _, err := c.Execute(limited(t), vm.ID, shell("echo here > /tmp/kept")); err != nil {
		t.Fatal(err)
	}
	if err := pg.Kill(); err != nil {
		t.Fatal(err)
	}
	once, err := client.New(client.Options{URL: s.URL, Key: s.Key, Patience: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer once.Close()
	if _, err := once.VM(limited(t), vm.ID); !errors.HasCode(err, errors.Unavailable) {
		t.Errorf("without its database the server says %v", err)
	}
	if err := pg.Run(limited(t)); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		res, err := c.Execute(limited(t), vm.ID, shell("cat /tmp/kept"))
		if err != nil || res.Stdout != "here\n" {
			t.Errorf("%s: %q, %v", when, res.Stdout, err)
		}
		if got, err := c.VM(limited(t), "kept"); err != nil || got.ID != vm.ID || got.State != "running" || got.Epoch != vm.Epoch {
			t.Errorf("%s: %+v, %v", when, got, err)
		}
	}
	check("when the database is back")
	if err := s.Stop(limited(t)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(limited(t)); err != nil {
		t.Fatal(err)
	}
	check("after a restart of the server")
}
