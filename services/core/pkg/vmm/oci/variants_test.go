package oci_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestVariants(t *testing.T) {
	l := newLab(t)
	l.boot(spec("model"))
	instance, _ := os.ReadFile(l.dir + "/instance")
	config, err := os.ReadFile(filepath.Join(l.dir, "run/b/model/config.json"))
	must(t, err)
	must(t, exec.Command("runc", "--root", l.dir+"/run/r", "kill", string(instance)+"-model", "KILL").Run())
	l.Wait(t.Context(), "model")
	null, _ := os.Open("/dev/null")
	root := t.TempDir()
	variants := []struct {
		name string
		f    func(m map[string]any)
	}{
		{"full", func(m map[string]any) {}},
		{"gogc=off", func(m map[string]any) {}},
{"gomax1", func(m map[string]any) {}},
{"log+pid", func(m map[string]any) {}},
{"noseccomp", func(m map[string]any) { delete(m["linux"].(map[string]any), "seccomp") }},
		{"seccomp1arch", func(m map[string]any) {
			m["linux"].(map[string]any)["seccomp"].(map[string]any)["architectures"] = []string{"SCMP_ARCH_X86_64"}
		}},
		{"nores", func(m map[string]any) { delete(m["linux"].(map[string]any), "resources") }},
		{"nodevrules", func(m map[string]any) {
			delete(m["linux"].(map[string]any)["resources"].(map[string]any), "devices")
		}},
		{"nomask", func(m map[string]any) {
			delete(m["linux"].(map[string]any), "maskedPaths")
			delete(m["linux"].(map[string]any), "readonlyPaths")
		}},
		{"nosysctl", func(m map[string]any) { delete(m["linux"].(map[string]any), "sysctl") }},
	}
	times := map[string][]time.Duration{}
	n := 0
	for round := range 41 {
		for _, v := range variants {
			var m map[string]any
			json.Unmarshal(config, &m)
			v.f(m)
			b := t.TempDir()
			raw, _ := json.Marshal(m)
			os.WriteFile(b+"/config.json", raw, 0o600)
			n++
			id := fmt.Sprintf("bare%d", n)
			args := []string{"--root", root, "run", "--detach", "--preserve-fds", "1", "--no-new-keyring", "--bundle", b, id}
			cmd := exec.Command("runc", args...)
			cmd.ExtraFiles = []*os.File{null}
			switch v.name {
			case "gogc=off":
				cmd.Env = append(os.Environ(), "GOGC=off")
			case "gomax1":
				cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
			case "log+pid":
				cmd.Args = []string{"runc", "--root", root, "--log", b + "/log", "--log-format", "json", "run", "--detach", "--preserve-fds", "1", "--pid-file", b + "/pid", "--no-new-keyring", "--bundle", b, id}
			}
			s := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatal(string(out), v.name)
			}
			if round > 0 {
				times[v.name] = append(times[v.name], time.Since(s))
			}
			exec.Command("runc", "--root", root, "delete", "--force", id).Run()
		}
		s := time.Now()
		id := fmt.Sprintf("ours%d", round)
		l.boot(spec(id))
		times["ours"] = append(times["ours"], time.Since(s))
		must(t, l.Delete(t.Context(), id))
		s = time.Now()
		exec.Command("runc", "--version").Run()
		times["runc --version"] = append(times["runc --version"], time.Since(s))
	}
	for k, v := range times {
		slices.Sort(v)
		t.Log(k, v[len(v)/4], v[len(v)/2], v[len(v)*3/4])
	}
}
