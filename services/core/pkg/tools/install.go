package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/image/untar"
)

// Where things are in machines. A tool is installed at the path that VMs have
// it at: many hold absolute paths.
const (
	// MachineDir is where VMs have the tools.
	MachineDir = "/opt/aetherium/tools"
	// MachineMise is where installing machines have mise.
	MachineMise = "/opt/aetherium/mise"
	// ProfileTarget is where VMs have what gives login shells the tools: after
	// what sets PATH anew, which comes earlier in the alphabet.
	ProfileTarget = "/etc/profile.d/zz-aetherium-tools.sh"
	// PathVariable holds the tools' part of PATH.
	PathVariable = "AETHERIUM_TOOLS_PATH"

	machineCA     = "/opt/aetherium-ca.crt"
	machineRecipe = "/opt/aetherium-recipe" // a directory
	machineData   = "/var/lib/aetherium-mise"
)

// Command is a program to run in a machine, as root.
type Command struct {
	Args []string
	Env  map[string]string
	Cwd  string
}

// Exit is how it ended.
type Exit struct {
	Code   int
	Lost   string // why there is no code
	OOM    bool   // the machine's memory limit ended something of it
	Stdout []byte // cut at MaxStdout
}

// MaxStdout is how much of a command's stdout is of interest.
const MaxStdout = 64 << 10

// Machine is where a tool is installed. It is used by one goroutine.
type Machine interface {
	// Run runs a command to its end. line is told each line of its stderr.
	Run(ctx context.Context, c Command, line func(string)) (Exit, error)
	WriteFile(ctx context.Context, path string, content []byte) error
	// Tar streams a tar of what is in a directory. Returns NotFound.
	Tar(ctx context.Context, dir string) (io.ReadCloser, error)
	// Close removes the machine.
	Close()
}

// installation installs one tool in one machine.
type installation struct {
	m       *Manager
	machine Machine
	ref     domain.Tool
	env     map[string]string
	say     func(string)
	last    []string // of what mise said, for the error
}

// prepare puts into the machine what mise needs.
func (i *installation) prepare(ctx context.Context) error {
	i.env = map[string]string{
		"HOME": "/root", "TERM": "dumb", "NO_COLOR": "1", "CI": "1",
		"MISE_DATA_DIR": machineData, "MISE_CACHE_DIR": machineData + "/cache", "MISE_STATE_DIR": machineData + "/state",
		"MISE_INSTALLS_DIR": MachineDir, "MISE_YES": "1", "MISE_TRUSTED_CONFIG_PATHS": machineRecipe, "MISE_COLOR": "0",
		"MISE_FETCH_REMOTE_VERSIONS_TIMEOUT": "20s", "MISE_DISABLE_UPDATE_WARNING": "1", "MISE_EXPERIMENTAL": "1",
		"npm_config_registry": i.m.cfg.Registry,
	}
	if i.m.cfg.CAFile != "" {
		pem, err := os.ReadFile(i.m.cfg.CAFile)
		if err != nil {
			return wrap(err, errors.Unavailable, CodeUnreachable, "the setting tools.ca_file names no readable file")
		}
		if err := i.machine.WriteFile(ctx, machineCA, pem); err != nil {
			return err
		}
		// What mise, and what package managers and scripts under it, look at.
		for _, name := range []string{
			"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "PIP_CERT", "npm_config_cafile", "CARGO_HTTP_CAINFO",
		} {
			i.env[name] = machineCA
		}
	}
	for k, v := range i.m.cfg.Env {
		i.env[k] = v
	}
	return nil
}

// mise runs mise with the recipe at hand. Where its exit code is not 0, ok is
// false and i.last has what it said.
func (i *installation) mise(ctx context.Context, args ...string) (stdout string, ok bool, err error) {
	i.last = nil
	exit, err := i.machine.Run(ctx, Command{Args: append([]string{MachineMise}, args...), Env: i.env, Cwd: machineRecipe}, func(line string) {
		if line = strings.TrimSpace(line); line == "" {
			return
		}
		i.say(line)
		if i.last = append(i.last, line); len(i.last) > 40 {
			i.last = i.last[1:]
		}
	})
	switch {
	case err != nil:
		return "", false, err
	case exit.OOM:
		return "", false, fail(errors.TooLarge, CodeTooLarge, "the installation of %s needs more memory than its machine has", i.ref)
	case exit.Lost != "":
		return "", false, fail(errors.GuestFault, CodeFailed, "the installation of %s was cut short: %s", i.ref, exit.Lost)
	}
	return strings.TrimSpace(string(exit.Stdout)), exit.Code == 0, nil
}

// resolve finds the exact version and who has it: the first backend that knows
// one. Its recipe is in place then.
func (i *installation) resolve(ctx context.Context) (backend, string, error) {
	dir := i.ref.Dir()
	var why error
	for n, b := range backends(i.ref, i.m.cfg.Platform) {
		if n > 0 {
			i.say("trying " + b.name)
		}
		if err := i.recipe(ctx, b, i.ref.Version); err != nil {
			return b, "", err
		}
		asked := dir
		if i.ref.Version != domain.LatestVersion {
			asked += "@" + i.ref.Version
		}
		out, ok, err := i.mise(ctx, "latest", asked)
		if err != nil {
			return b, "", err
		}
		if ok && out == "" {
			why = fail(errors.NotFound, CodeNoVersion, "there is no version %s of %s", i.ref.Version, i.ref.Name)
			i.say(b.name + " has no version " + i.ref.Version)
			continue
		}
		exact, perr := domain.ParseTool("", i.ref.Name+"@"+out)
		switch {
		case !ok:
			if w := i.blame(b); why == nil || errors.HasCode(why, errors.Unavailable) {
				why = w
			}
			continue
		case perr != nil:
			return b, "", fail(errors.Unavailable, CodeFailed, "mise gave no version of %s", i.ref)
		}
		return b, exact.Version, i.recipe(ctx, b, exact.Version)
	}
	if why == nil {
		why = fail(errors.NotFound, CodeUnknown, "there is no tool %s", i.ref.Name)
	}
	return backend{}, "", why
}

func (i *installation) recipe(ctx context.Context, b backend, version string) error {
	return i.machine.WriteFile(ctx, machineRecipe+"/mise.toml", []byte(b.recipe(i.ref.Dir(), version)))
}

// blame makes an error of what mise said last.
func (i *installation) blame(b backend) error {
	said := strings.Join(i.last, "\n")
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(strings.ToLower(said), p) {
				return true
			}
		}
		return false
	}
	short := i.summary()
	switch {
	case has("not found in mise tool registry", "package not found", "no such package", "404 not found"):
		return fail(errors.NotFound, CodeUnknown, "there is no tool %s for %s: %s", i.ref.Name, b.name, short)
	case has("no space left", "disk quota exceeded"):
		return fail(errors.TooLarge, CodeTooLarge, "%s does not fit on the disk of the machine that installs it", i.ref).
			WithHint("see tools.max_size")
	case has("minimumpackageage", "minimumreleaseage"):
		return fail(errors.Unavailable, CodeFailed, "%s is held back because the registry does not tell its age: %s", i.ref, short).
			WithHint("for a registry that you trust set AUBE_MINIMUM_PACKAGE_AGE=0 in tools.env")
	case has("dns error", "failed to lookup", "could not resolve", "connect", "timed out", "certificate", "error sending request"):
		return fail(errors.Unavailable, CodeUnreachable, "what has %s cannot be reached by %s: %s", i.ref.Name, b.name, short).
			WithHint("see the settings tools.registry, tools.ca_file and network.allow")
	}
	return fail(errors.Unavailable, CodeFailed, "%s cannot be installed by %s: %s", i.ref, b.name, short)
}

// summary is the line of what mise said that tells most.
func (i *installation) summary() string {
	best := ""
	for _, line := range i.last {
		text, isError := strings.CutPrefix(line, "mise ERROR ")
		if isError && !strings.HasPrefix(text, "Version:") && !strings.HasPrefix(text, "Run with") {
			best = text
			if !strings.HasSuffix(text, ":") {
				break
			}
		}
	}
	if best == "" && len(i.last) > 0 {
		best = i.last[len(i.last)-1]
	}
	if best == "" {
		best = "it gave no reason"
	}
	best = strings.ToValidUTF8(best, "?")
	if len(best) > 300 {
		best = strings.ToValidUTF8(best[:300], "") + "…"
	}
	return best
}

// install installs the exact version and describes it.
func (i *installation) install(ctx context.Context, b backend, version string) (Tool, error) {
	t := Tool{Name: i.ref.Name, Version: version, Backend: b.name}
	began := time.Now()
	i.say("installing " + t.Ref().String() + " by " + b.name)
	_, ok, err := i.mise(ctx, "install", "--quiet")
	if err != nil {
		return t, err
	}
	if !ok {
		return t, i.blame(b)
	}
	out, ok, err := i.mise(ctx, "bin-paths")
	if err != nil {
		return t, err
	}
	if !ok {
		return t, i.blame(b)
	}
	for line := range strings.Lines(out) {
		if bin, inside := below(strings.TrimSpace(line), i.ref.Dir()); inside && len(t.Bins) < 8 {
			t.Bins = append(t.Bins, bin)
		}
	}
	out, ok, err = i.mise(ctx, "env", "--json")
	if err != nil {
		return t, err
	}
	if ok {
		t.Env = environment(out)
	}
	i.say("installed in " + time.Since(began).Round(10*time.Millisecond).String())
	return t, nil
}

// below gives a path in a machine relative to the tool's own directory,
// whatever name of the version it goes by.
func below(p, dir string) (string, bool) {
	rest, ok := strings.CutPrefix(path.Clean(p), MachineDir+"/"+dir+"/")
	if !ok || strings.ContainsAny(rest, ":\x00\n") || len(rest) > 1024 {
		return "", false
	}
	_, rel, _ := strings.Cut(rest, "/")
	if rel == "" {
		rel = "."
	}
	return rel, true
}

// environment is what a tool wants set, within bounds. PATH is made of Bins.
func environment(text string) map[string]string {
	var all map[string]string
	if json.Unmarshal([]byte(text), &all) != nil {
		return nil
	}
	env := map[string]string{}
	for k, v := range all {
		if k == "PATH" || k == PathVariable || strings.HasPrefix(k, "MISE_") || len(v) > 4096 || len(env) == 32 {
			continue
		}
		if domain.ValidateEnv("", map[string]string{k: v}) == nil {
			env[k] = v
		}
	}
	return env
}

// take gets the tool out of the machine and publishes it.
func (i *installation) take(ctx context.Context, t Tool) (Tool, error) {
	r, err := i.machine.Tar(ctx, MachineDir+"/"+t.Ref().Dir()+"/"+t.Version)
	if errors.HasCode(err, errors.NotFound) {
		return t, wrap(err, errors.Unavailable, CodeFailed, "mise left nothing of %s", t.Ref())
	}
	if err != nil {
		return t, err
	}
	defer func() { _ = r.Close() }()
	staged, discard, err := i.m.cache.stage()
	if err != nil {
		return t, err
	}
	defer discard()
	size, err := untar.Into(ctx, staged, r, i.m.cfg.Limits, i.say)
	switch {
	case errors.HasCode(err, errors.TooLarge):
		return t, wrap(err, errors.TooLarge, CodeTooLarge, "%s is too large: %s", t.Ref(), errors.Public(err).Message).WithHint("see tools.max_size")
	case errors.HasCode(err, errors.NoSpace):
		return t, wrap(err, errors.NoSpace, CodeNoSpace, "%s cannot be kept: the host's disk is full", t.Ref())
	case err != nil:
		return t, err
	}
	t.Bytes, t.Files = size.Bytes, size.Entries
	return i.m.cache.publish(staged, t)
}

// lines cuts a stream into lines, each at most so long.
type lines struct {
	rest []byte
	each func(string)
}

// Lines returns a function that is given a stream piece by piece and tells
// each its lines; end tells what is left.
func Lines(each func(string)) (write func([]byte), end func()) {
	l := &lines{each: each}
	return l.write, l.end
}

const maxLine = 4096

func (l *lines) write(p []byte) {
	for len(p) > 0 {
		at := bytes.IndexAny(p, "\r\n")
		if at < 0 {
			if l.rest = append(l.rest, p...); len(l.rest) >= maxLine {
				l.end()
			}
			return
		}
		l.rest = append(l.rest, p[:at]...)
		l.end()
		p = p[at+1:]
	}
}

func (l *lines) end() {
	if len(l.rest) > 0 {
		l.each(strings.ToValidUTF8(string(l.rest[:min(len(l.rest), maxLine)]), "?"))
		l.rest = nil
	}
}
