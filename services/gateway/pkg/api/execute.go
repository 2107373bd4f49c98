package api

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/apiform"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

const (
	defaultKeep  = 1 << 20
	executeChunk = 64 << 10
)

type (
	executeInput struct {
		VMPath
		KeyHeader
		ExecutionHeader
		Body wire.Execute
	}
	executeOutput struct{ Body wire.ExecuteResult }
)

func (a *API) executeRoute() {
	op := operation("execute", http.MethodPost, "/vms/{vm}/execute", "Executions", "Run a command to its end",
		"An exit code other than 0 is a result, not an error. A client that goes away does not end the command; its ID finds it again.")
	register(a, op, options{scope: domain.ScopeRun, body: executeBodyBytes, recognises: true}, a.execute)
}

func (a *API) execute(ctx context.Context, in *executeInput) (*executeOutput, error) {
	by, vm, err := a.resolve(ctx, in.VMPath)
	if err != nil {
		return nil, err
	}
	req, err := toStart(in.Body.ID, in.Body.Command, nil, in.Body.Stdin != "")
	if err != nil {
		return nil, err
	}
	keyed(&req, in.IdempotencyKey, by.ProjectID, vm, in.Body)
	exec, out, err := a.VMs.Execute(ctx, by, vm, req)
	if exec != nil {
		trail.Subject(ctx, "execution", exec.ID.String())
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }()
	if in.Body.Stdin != "" {
		feedCtx, stop := context.WithCancel(ctx)
		fed := make(chan struct{})
		go func() { defer close(fed); a.feed(feedCtx, by, exec.ID, in.Body.Stdin) }()
		defer func() { stop(); <-fed }()
	}
	keep := int(in.Body.MaxOutputBytes)
	if keep == 0 {
		keep = defaultKeep
	}
	stdout, stderr := capture{limit: keep}, capture{limit: keep}
	var written int64
	for {
		ev, err := out.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New(errors.Unavailable, "the output ended before the execution did").
				WithHint("GET %s tells how it goes on", location("executions", exec.ID.String()))
		case err != nil:
			return nil, err
		case ev.End != nil:
			return &executeOutput{result(exec, ev.End, max(written, ev.Offset), &stdout, &stderr, a.Now())}, nil
		case ev.Gap != nil: // whose output it was is no longer known
			stdout.truncated, stderr.truncated = true, true
			written = ev.Gap.To
		case ev.Stream == domain.Stderr:
			stderr.add(ev.Data)
			written = ev.Offset + int64(len(ev.Data))
		default:
			stdout.add(ev.Data)
			written = ev.Offset + int64(len(ev.Data))
		}
	}
}

// feed sends the whole input. Its errors need no telling: a command that does
// not read its input to the end is an ordinary one.
func (a *API) feed(ctx context.Context, by vmm.Caller, id domain.ID, input string) {
	for offset := 0; offset < len(input); offset += executeChunk {
		piece := input[offset:min(offset+executeChunk, len(input))]
		if a.VMs.WriteStdin(ctx, by, id, int64(offset), []byte(piece)) != nil {
			break
		}
	}
	_ = a.VMs.CloseStdin(ctx, by, id)
}

// result puts the end, which came with the output, into the execution as it
// was started: reading the row again would cost a round trip and say the same.
func result(exec *domain.Execution, end *domain.ExecutionEnd, written int64, stdout, stderr *capture, now time.Time) wire.ExecuteResult {
	x := apiform.Execution(exec)
	x.State, x.OutputBytes = string(domain.ExecutionExited), written
	if end.LostReason != "" {
		x.State, x.LostReason = string(domain.ExecutionLost), end.LostReason
	} else {
		code := end.ExitCode
		x.ExitCode, x.Signal, x.TimedOut = &code, end.Signal, end.TimedOut
	}
	if x.EndedAt == nil {
		now = now.UTC()
		x.EndedAt = &now
	}
	r := wire.ExecuteResult{
		Execution: x, StdoutTruncated: stdout.truncated, StderrTruncated: stderr.truncated, Encoding: wire.EncodingUTF8,
	}
	if stdout.text() && stderr.text() {
		r.Stdout, r.Stderr = string(stdout.kept), string(stderr.kept)
	} else {
		r.Encoding = wire.EncodingBase64
		r.Stdout, r.Stderr = base64.StdEncoding.EncodeToString(stdout.kept), base64.StdEncoding.EncodeToString(stderr.kept)
	}
	return r
}

// capture keeps the beginning of a stream.
type capture struct {
	limit     int
	kept      []byte
	truncated bool
}

func (c *capture) add(p []byte) {
	if room := c.limit - len(c.kept); len(p) > room {
		p, c.truncated = p[:room], true
	}
	c.kept = append(c.kept, p...)
}

// text reports whether the stream is UTF-8, where a cut in the middle of a
// character is put right first.
func (c *capture) text() bool {
	if c.truncated {
		for cut := 1; cut < utf8.UTFMax && cut <= len(c.kept); cut++ {
			if r := c.kept[len(c.kept)-cut]; utf8.RuneStart(r) {
				if !utf8.FullRune(c.kept[len(c.kept)-cut:]) {
					c.kept = c.kept[:len(c.kept)-cut]
				}
				break
			}
		}
	}
	return utf8.Valid(c.kept)
}
