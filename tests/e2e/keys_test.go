package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// sealKeys is what `keys ls --json` tells.
type sealKeys struct {
	Keys []struct {
		ID     string         `json:"id"`
		Newest bool           `json:"newest"`
		Values map[string]int `json:"values"`
	} `json:"keys"`
}

// What is secret is nowhere on the server's disk in clear, and its keys are
// changed under VMs that run on.
func TestSecretsAtRest(t *testing.T) {
	t.Parallel()
	s := own(t)
	ctx := limited(t)
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Each shows where it leaks from.
	value := func(what string) string { return what + "-" + strings.ToLower(rand.Text()) }
	secret, env, arg := value("secret"), value("env"), value("arg")
	set := s.Command(ctx, "secret", "set", "TOKEN")
	set.Stdin = strings.NewReader(secret + "\n")
	if out, err := set.CombinedOutput(); err != nil || strings.Contains(string(out), secret) {
		t.Fatalf("%s %v", out, err)
	}
	vm, err := c.CreateVM(ctx, api.CreateVM{Network: "none", Env: map[string]string{"A": env}, Secrets: []api.SecretUse{{Name: "TOKEN", Env: "TOKEN"}}})
	if err != nil {
		t.Fatal(err)
	}
	says := func(vm string) {
		t.Helper()
		// Compared in the VM: what is put out is journaled.
		script := `test "$A" = "$1" && test "$TOKEN" = "$2" && echo same`
		got, err := c.Execute(ctx, vm, api.Execute{Command: api.Command{Args: []string{"sh", "-c", script, arg, env, secret}}})
		if err != nil || got.Stdout != "same\n" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	says(vm.ID)
	if _, err := s.Standalone(ctx, "keys", "rotate"); err == nil || !strings.Contains(err.Error(), "the server runs") {
		t.Errorf("keys of a running server: %v", err)
	}
	inClear(t, s, secret, env, arg)
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	old := keysOf(t, s)
	if len(old.Keys) != 1 || old.Keys[0].Values["secrets.sealed"] != 1 || old.Keys[0].Values["vms.env_sealed"] != 1 || old.Keys[0].Values["executions.command_sealed"] == 0 {
		t.Errorf("keys %+v", old)
	}
	for _, args := range [][]string{{"keys", "rotate"}, {"keys", "rm", old.Keys[0].ID}} {
		if _, err := s.Standalone(ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	if now := keysOf(t, s); len(now.Keys) != 1 || now.Keys[0].ID == old.Keys[0].ID || now.Keys[0].Values["secrets.sealed"] != 1 {
		t.Errorf("keys %+v", now)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := c.VM(ctx, vm.ID)
	if err != nil || after.State != "running" || after.Epoch != vm.Epoch {
		t.Errorf("the VM is %s in epoch %d, %v", after.State, after.Epoch, err)
	}
	says(vm.ID)
	forks, err := c.ForkVM(ctx, vm.ID, api.ForkVM{})
	if err != nil || len(forks) != 1 {
		t.Fatalf("%v, %v", forks, err)
	}
	says(forks[0].ID)
	inClear(t, s, secret, env, arg)
	out, err := s.CLI(ctx, "secret", "ls", "-q")
	if err != nil || out != "TOKEN\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func keysOf(t *testing.T, s *server.Server) (k sealKeys) {
	t.Helper()
	out, err := s.Standalone(limited(t), "keys", "ls", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// inClear looks for values in everything that the server has written, but for
// the guests' own disks and what these are made from.
func inClear(t *testing.T, s *server.Server, values ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(s.DataDir, func(path string, d fs.DirEntry, err error) error {
		switch name, _ := filepath.Rel(s.DataDir, path); {
		case err != nil:
			return err
		case d.IsDir() && (name == "images" || name == "vmdata"):
			return fs.SkipDir
		case !d.Type().IsRegular() || strings.HasPrefix(name, "vmdata"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, v := range values {
			if bytes.Contains(text, []byte(v)) {
				t.Errorf("%s holds %q in clear", path, v)
			}
		}
		return nil
	})
	if err != nil || files < 4 {
		t.Errorf("%d files were looked at, %v", files, err)
	}
}
