package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/aetherium/aetherium/tests/internal/server"
)

// sdkPart begins the names of benchmarks of published SDKs.
const sdkPart = "sdk, "

// The packages that are compared, as they are in Python's registry.
const (
	sdkE2B    = "e2b==2.63.0"
	sdkDocker = "docker==7.1.0"
)

// sdkFirsts is how many processes are asked for their first call.
const sdkFirsts = 5

//go:embed sdk.py
var sdkScript []byte

// sdkTimes is what one line of the script's says.
type sdkTimes struct {
	Importing time.Duration `json:"importing"`
	Create    time.Duration `json:"create"`
	Run       time.Duration `json:"run"`
	Kill      time.Duration `json:"kill"`
	Error     string        `json:"error"`
}

// sdkSide is one way to a machine through a package: its process is kept, as a
// program's that uses it is.
type sdkSide struct {
	name  string
	args  []string
	env   []string
	runs  []time.Duration // of all calls of once
	kills []time.Duration

	process   *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	stderr    bytes.Buffer // to be read when the process has ended
	importing time.Duration
}

// sdk measures the SDK's calls beside those of Docker's client, and beside the
// same calls to a server that has the answers ready.
func (b *bench) sdk(ctx context.Context, name string) ([]Result, error) {
	python, err := sdkPython(ctx)
	if err != nil {
		fmt.Fprintf(b.log, "the SDK is left out: %v\n", err)
		return nil, nil
	}
	script := filepath.Join(b.dir, "sdk.py")
	if err := os.WriteFile(script, sdkScript, 0o600); err != nil {
		return nil, err
	}
	command := []string{python, script}
	base, key, err := b.warm.e2b(ctx)
	if err != nil {
		return nil, err
	}
	played, err := newReplay(base)
	if err != nil {
		return nil, err
	}
	stub := httptest.NewServer(played)
	defer stub.Close()
	at := func(base string) []string {
		return []string{"E2B_API_KEY=" + key, "E2B_API_URL=" + base + "/e2b", "E2B_SANDBOX_URL=" + base}
	}
	sides := []*sdkSide{
		{name: "aetherium", args: append(command, "e2b"), env: at(base)},
		{name: "the SDK alone, answers at once", args: append(command, "e2b"), env: at(stub.URL)},
	}
	if b.docker != nil {
		sides = append(sides,
			&sdkSide{name: "docker run, docker-py", args: append(command, "run", b.docker.sock, dockerImage)},
			&sdkSide{name: "docker run -d and exec, docker-py", args: append(command, "exec", b.docker.sock, dockerImage)})
	}
	var cs []contender
	for _, s := range sides {
		if err := s.open(ctx); err != nil {
			return nil, err
		}
		defer s.close()
		if _, err := s.once(ctx); err != nil { // the stub's is passed on, and kept
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		cs = append(cs, contender{s.name, func(ctx context.Context) (time.Duration, error) {
			t, err := s.once(ctx)
			return t.Create + t.Run, errors.Join(err, pause(ctx))
		}})
	}
	played.close()
	took, err := turns(ctx, name, b.rounds, cs)
	if err != nil {
		return nil, err
	}
	results := []Result{
		sdkRow(name, sides, func(i int) Sample { return sample(took[i]) }),
		sdkRow(sdkPart+"of it commands.run", sides, func(i int) Sample { return sample(last(sides[i].runs, b.rounds)) }),
		sdkRow(sdkPart+"kill", sides, func(i int) Sample { return sample(last(sides[i].kills, b.rounds)) }),
		sdkShare(took[0], took[1]),
	}
	delete(results[1].Peers, "docker run, docker-py") // where it is all one
	delete(results[1].Ratio, "docker run, docker-py")
	first, err := b.sdkFirst(ctx, sides)
	return append(results, first...), err
}

// sdkRow is a result of all sides; the first is ours.
func sdkRow(name string, sides []*sdkSide, of func(i int) Sample) Result {
	r := newResult(name, "ms", of(0))
	for i, s := range sides[1:] {
		r.against(s.name, of(i+1))
	}
	return r
}

// sdkShare is what of the calls' time is the server's: the whole without what
// the same calls cost where the answers are there at once.
func sdkShare(whole, alone []time.Duration) Result {
	share := make([]time.Duration, len(whole))
	for i := range whole {
		share[i] = max(0, whole[i]-alone[i])
	}
	r := newResult(sdkPart+"the server's share of create and echo", "ms", sample(share))
	r.against("the whole", sample(whole))
	return r
}

// sdkFirst measures the first calls of processes, and how long they import.
func (b *bench) sdkFirst(ctx context.Context, sides []*sdkSide) ([]Result, error) {
	imports := make([][]time.Duration, len(sides))
	var cs []contender
	for i, s := range sides {
		cs = append(cs, contender{s.name, func(ctx context.Context) (time.Duration, error) {
			fresh := &sdkSide{name: s.name, args: s.args, env: s.env}
			if err := fresh.open(ctx); err != nil {
				return 0, err
			}
			defer fresh.close()
			imports[i] = append(imports[i], fresh.importing)
			t, err := fresh.once(ctx)
			return t.Create + t.Run, errors.Join(err, pause(ctx))
		}})
	}
	name := sdkPart + "the first create and echo of a process"
	rounds := min(b.rounds, sdkFirsts)
	took, err := turns(ctx, name, rounds, cs)
	if err != nil {
		return nil, err
	}
	return []Result{
		sdkRow(name, sides, func(i int) Sample { return sample(took[i]) }),
		sdkRow(sdkPart+"import of the package", sides, func(i int) Sample { return sample(last(imports[i], rounds)) }),
	}, nil
}

func last[T any](all []T, n int) []T { return all[len(all)-n:] }

// e2b is where SDKs find the site's server, in clear text, and a key for them.
func (s *site) e2b(ctx context.Context) (base, key string, err error) {
	key, err = s.CLI(ctx, "key", "create", "bench", "--e2b", "--scope", "manage")
	if err != nil {
		return "", "", err
	}
	at, err := url.Parse(s.URL)
	if err != nil {
		return "", "", err
	}
	return "http://" + net.JoinHostPort("localhost", at.Port()), strings.TrimSpace(key), nil
}

// sdkPython is a Python that has the packages, made once.
func sdkPython(ctx context.Context) (string, error) {
	root, err := server.Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".tools", "bench", strings.ReplaceAll(sdkE2B+"-"+sdkDocker, "==", "-"))
	python, ready := filepath.Join(dir, "bin", "python"), filepath.Join(dir, "ready")
	if _, err := os.Stat(ready); err == nil {
		return python, nil
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil { //nolint:gosec // programs, for everybody
		return "", err
	}
	for _, step := range [][]string{
		{"python3", "-m", "venv", dir},
		{python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", sdkE2B, sdkDocker},
	} {
		if out, err := exec.CommandContext(ctx, step[0], step[1:]...).CombinedOutput(); err != nil { //nolint:gosec // the steps above
			return "", fmt.Errorf("%w: %s", err, firstLine(string(out)))
		}
	}
	return python, os.WriteFile(ready, nil, 0o600)
}

// open starts the side's process, and returns when it has its package.
func (s *sdkSide) open(ctx context.Context) error {
	s.process = exec.CommandContext(ctx, s.args[0], s.args[1:]...) //nolint:gosec // our script
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "E2B_") && !strings.HasPrefix(kv, "DOCKER_") {
			s.process.Env = append(s.process.Env, kv)
		}
	}
	s.process.Env = append(s.process.Env, s.env...)
	s.process.Stderr = &s.stderr
	var err error
	if s.in, err = s.process.StdinPipe(); err != nil {
		return err
	}
	out, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	s.out = bufio.NewScanner(out)
	if err := s.process.Start(); err != nil {
		return err
	}
	t, err := s.read()
	s.importing = t.Importing
	if err != nil {
		s.close()
	}
	return err
}

// once has a machine made, a command run in it and the machine removed.
func (s *sdkSide) once(ctx context.Context) (sdkTimes, error) {
	if _, err := io.WriteString(s.in, "once\n"); err != nil {
		return sdkTimes{}, errors.Join(ctx.Err(), err)
	}
	t, err := s.read()
	s.runs, s.kills = append(s.runs, t.Run), append(s.kills, t.Kill)
	return t, errors.Join(ctx.Err(), err)
}

func (s *sdkSide) read() (t sdkTimes, err error) {
	if !s.out.Scan() {
		s.close()
		return t, fmt.Errorf("the script has ended: %s", lastLine(s.stderr.String()))
	}
	if err := json.Unmarshal(s.out.Bytes(), &t); err != nil {
		return t, fmt.Errorf("the script says %q", s.out.Text())
	}
	if t.Error != "" {
		return t, errors.New(t.Error)
	}
	return t, nil
}

// lastLine is where a traceback says what was wrong.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// close lets the process end.
func (s *sdkSide) close() {
	_ = s.in.Close()
	_ = s.process.Wait()
}
