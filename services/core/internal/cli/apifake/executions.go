package apifake

import (
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// piece is output as the journal has it.
type piece struct {
	kind   api.FrameKind
	offset int64
	data   []byte
}

// execution is a process of this host, with its journal.
type execution struct {
	vm      string
	request api.StartExecution
	cmd     *exec.Cmd
	stdin   *os.File // the process's stdin or terminal; nil: none

	inputMu sync.Mutex // one writer at a time

	mu      sync.Mutex
	info    api.Execution
	pieces  []piece
	next    int64
	dropped int64 // output below is no longer kept
	taken   int64 // bytes of input the process has
	changed chan struct{}
	exit    *api.OutputExit
	cutOff  chan struct{} // closed to end every stream on it
}

// start starts a command, or gives the one that has the ID. The caller holds s.mu.
func (s *Server) start(v *vm, req api.StartExecution) (*execution, error) {
	for _, x := range s.executions {
		if x.info.ID == req.ID {
			return x, nil
		}
	}
	args := req.Args
	if req.Command.Command != "" {
		args = []string{"bash", "-lc", req.Command.Command}
	}
	path, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, errors.New(errors.InvalidArgument, "%q cannot be executed: permission denied", args[0]).WithField("args")
	case err != nil:
		return nil, errors.New(errors.InvalidArgument, "the program %q was not found in PATH", args[0]).WithField("args")
	}
	x := &execution{
		vm: v.ID, request: req, changed: make(chan struct{}), cutOff: make(chan struct{}), dropped: s.Forgets,
	}
	x.info = api.Execution{
		ID: req.ID, VMID: v.ID, State: "running", Args: args, PTY: req.PTY, Stdin: req.Stdin, TimeoutMS: req.TimeoutMS, CreatedAt: time.Now(),
	}
	x.cmd = exec.Command(path, args[1:]...) //nolint:noctx // it outlives every request
	x.cmd.Dir = v.dir
	x.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + v.dir}
	for _, env := range []map[string]string{v.env, req.Env} {
		for k, val := range env {
			x.cmd.Env = append(x.cmd.Env, k+"="+val)
		}
	}
	if err := x.run(); err != nil {
		return nil, errors.Wrap(err, errors.GuestFault, "%s", err)
	}
	s.executions = append(s.executions, x)
	s.tell("execution.started", x.info.ID)
	return x, nil
}

func (x *execution) run() error {
	var readers sync.WaitGroup
	if x.request.PTY != nil {
		f, err := pty.StartWithSize(x.cmd, &pty.Winsize{Cols: x.request.PTY.Cols, Rows: x.request.PTY.Rows})
		if err != nil {
			return err
		}
		x.stdin = f
		readers.Go(func() { x.journal(api.FramePTY, f) })
	} else if err := x.pipes(&readers); err != nil {
		return err
	}
	x.info.PID = int32(x.cmd.Process.Pid)
	if x.request.TimeoutMS > 0 {
		time.AfterFunc(time.Duration(x.request.TimeoutMS)*time.Millisecond, func() {
			x.mu.Lock()
			x.info.TimedOut = x.exit == nil
			x.mu.Unlock()
			x.kill()
		})
	}
	go func() {
		readers.Wait()
		_ = x.cmd.Wait()
		x.ended()
	}()
	return nil
}

func (x *execution) pipes(readers *sync.WaitGroup) error {
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		return err
	}
	x.cmd.Stdout, x.cmd.Stderr = outW, errW
	if x.request.Stdin {
		inR, inW, err := os.Pipe()
		if err != nil {
			return err
		}
		x.cmd.Stdin, x.stdin = inR, inW
		defer func() { _ = inR.Close() }()
	}
	err = x.cmd.Start()
	_, _ = outW.Close(), errW.Close()
	if err != nil {
		return err
	}
	readers.Go(func() { x.journal(api.FrameStdout, outR) })
	readers.Go(func() { x.journal(api.FrameStderr, errR) })
	return nil
}

func (x *execution) journal(kind api.FrameKind, f *os.File) {
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			x.mu.Lock()
			x.pieces = append(x.pieces, piece{kind, x.next, append([]byte(nil), buf[:n]...)})
			x.next += int64(n)
			x.broadcast()
			x.mu.Unlock()
		}
		if err != nil {
			if kind != api.FramePTY {
				_ = f.Close()
			}
			return
		}
	}
}

// broadcast wakes who waits for a change. The caller holds mu.
func (x *execution) broadcast() {
	close(x.changed)
	x.changed = make(chan struct{})
}

func (x *execution) ended() {
	x.mu.Lock()
	defer x.mu.Unlock()
	st := x.cmd.ProcessState.Sys().(syscall.WaitStatus)
	x.exit = &api.OutputExit{ExitCode: st.ExitStatus(), OutputBytes: x.next, TimedOut: x.info.TimedOut}
	if st.Signaled() {
		x.exit.Signal = int(st.Signal())
		x.exit.ExitCode = 128 + x.exit.Signal
	}
	now := time.Now()
	x.info.State, x.info.ExitCode, x.info.EndedAt, x.info.OutputBytes = "exited", &x.exit.ExitCode, &now, x.next
	x.broadcast()
}

func (x *execution) kill() { _ = syscall.Kill(-x.cmd.Process.Pid, syscall.SIGKILL) }

// cut ends every stream on the execution without a word.
func (x *execution) cut() {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.cutOff)
	x.cutOff = make(chan struct{})
}

// write passes input on: what was taken before is skipped, a hole refused.
func (x *execution) write(offset int64, data []byte) error {
	x.inputMu.Lock()
	defer x.inputMu.Unlock()
	x.mu.Lock()
	taken := x.taken
	x.mu.Unlock()
	switch {
	case x.stdin == nil:
		return errors.New(errors.InvalidArgument, "the command was started without stdin")
	case offset == api.AppendOffset:
		offset = taken
	case offset > taken:
		return errors.New(errors.OutOfRange, "input at offset %d leaves a hole: %d bytes were taken", offset, taken)
	}
	data = data[min(taken-offset, int64(len(data))):]
	_, err := x.stdin.Write(data)
	x.mu.Lock()
	x.taken += int64(len(data))
	x.mu.Unlock()
	if err != nil {
		return errors.New(errors.Gone, "the command no longer reads its stdin")
	}
	return nil
}

func (x *execution) closeInput() {
	x.inputMu.Lock()
	defer x.inputMu.Unlock()
	switch {
	case x.stdin == nil:
	case x.request.PTY != nil:
		_, _ = x.stdin.Write([]byte{4})
	default:
		_ = x.stdin.Close()
	}
}

func (x *execution) signal(name string) error {
	n, err := api.ParseSignal(name)
	if err != nil {
		return errors.New(errors.InvalidArgument, "%s", err)
	}
	if syscall.Kill(-x.cmd.Process.Pid, syscall.Signal(n)) != nil {
		return errors.New(errors.Conflict, "the execution has ended")
	}
	return nil
}

func (x *execution) snapshot() api.Execution {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.info
}

func (s *Server) execution(id string) (*execution, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.executions {
		if x.info.ID == id {
			return x, nil
		}
	}
	return nil, errors.New(errors.NotFound, "there is no execution %q", id)
}

// Started is how many commands were ever started.
func (s *Server) Started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.executions)
}

// Forget drops the output of every execution below an offset.
func (s *Server) Forget(below int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.executions {
		x.mu.Lock()
		x.dropped = min(below, x.next)
		x.mu.Unlock()
	}
}

func (s *Server) executionRoutes(handle register) {
	withX := func(f func(http.ResponseWriter, *http.Request, *execution) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			x, err := s.execution(r.PathValue("id"))
			if err != nil {
				return err
			}
			return f(w, r, x)
		}
	}
	handle("POST /vms/{vm}/executions", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		var req api.StartExecution
		if err := readJSON(r, &req); err != nil {
			return err
		}
		x, err := s.start(v, req)
		if err != nil {
			return err
		}
		writeJSON(w, 201, x.snapshot())
		return nil
	}))
	handle("GET /vms/{vm}/executions", s.withVM(func(w http.ResponseWriter, r *http.Request, v *vm) error {
		var items []api.Execution
		for i := len(s.executions) - 1; i >= 0; i-- {
			if x := s.executions[i]; x.vm == v.ID {
				items = append(items, x.snapshot())
			}
		}
		return page(w, r, items)
	}))
	handle("GET /executions/{id}", withX(func(w http.ResponseWriter, _ *http.Request, x *execution) error {
		writeJSON(w, 200, x.snapshot())
		return nil
	}))
	handle("POST /executions/{id}/signal", withX(func(w http.ResponseWriter, r *http.Request, x *execution) error {
		var req api.Signal
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if err := x.signal(req.Signal); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
	handle("GET /executions/{id}/output", withX(s.output))
	handle("GET /executions/{id}/stream", withX(func(w http.ResponseWriter, r *http.Request, x *execution) error {
		offset, _ := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
		return s.stream(w, r, func(*session) (*execution, int64, error) { return x, offset, nil })
	}))
	handle("GET /vms/{vm}/stream", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		v, err := s.find(r.PathValue("vm"))
		s.mu.Unlock()
		if err != nil {
			return err
		}
		return s.stream(w, r, func(sn *session) (*execution, int64, error) {
			var m api.StartControl
			if err := sn.readStart(&m); err != nil {
				return nil, 0, err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			x, err := s.start(v, m.StartExecution)
			return x, m.Offset, err
		})
	})
}
