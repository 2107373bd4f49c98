package api

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/serverlog"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

// LogQuery says which lines are meant.
type LogQuery struct {
	Since   string `query:"since" maxLength:"40" doc:"Not before: a time (RFC 3339), or how long ago, such as 1h30m"`
	Level   string `query:"level" enum:"debug,info,warn,error" doc:"This level and above"`
	Service string `query:"service" maxLength:"63" pattern:"^[a-z][a-z0-9-]*$" doc:"Program, such as aetherium-worker or worker"`
	Host    string `query:"host" maxLength:"253" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$" doc:"Name of the host"`
	Text    string `query:"text" maxLength:"256" doc:"Contained in the line, as upper and lower case are"`
	VM      string `query:"vm" maxLength:"20" pattern:"^[a-z0-9]{20}$" patternDescription:"an ID: 20 characters of a-z and 0-9" doc:"ID of the VM that it is about"`
	Request string `query:"request" maxLength:"128" pattern:"^[A-Za-z0-9._-]+$" doc:"ID of the request that it is about"`
	Trace   string `query:"trace_id" maxLength:"32" pattern:"^[0-9a-f]{32}$" patternDescription:"a trace ID: 32 digits of 0-9 and a-f" doc:"ID of the trace that it is about"`
}

type (
	listLogsInput struct {
		LogQuery
		Until  string `query:"until" maxLength:"40" doc:"Before: a time (RFC 3339), or how long ago"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Lines in a page"`
		Cursor string `query:"cursor" maxLength:"8192" doc:"next_cursor of the page before"`
		Order  string `query:"order" enum:"asc,desc" default:"desc" doc:"Newest (desc) or oldest (asc) first"`
	}
	streamLogsInput struct {
		LogQuery
		After       string `query:"after" maxLength:"8192" doc:"ID of the line to go on behind"`
		LastEventID string `header:"Last-Event-ID" maxLength:"8192" doc:"The same; beats after"`
	}
	logsOutput struct{ Body wire.LogPage }
)

func (a *API) logRoutes() {
	const tag = "Fleet"
	register(a, operation("list-logs", http.MethodGet, "/logs", tag, "List what servers have logged",
		"From Loki (log.loki) lines of all servers, of the last day unless since says more; otherwise those of the gateway that answers and of all workers, from their files (log.file), with whoever has not answered (missing). "+
			"A page can have fewer lines than limit, or none, and yet a next_cursor: then so much was looked through."),
		options{scope: domain.ScopeAdmin}, a.listLogs)
	stream := operation("stream-logs", http.MethodGet, "/logs/stream", tag, "Follow what servers log",
		"Over WebSocket or as server-sent events; LogLine in JSON. Lines since a time and those to come, or from now on. "+
			"A LogMissing tells of a worker whose lines do not come, until they do again. "+
			"From Loki those of the last seconds before the one gone on behind may come once more, as some come late; their IDs are the same.")
	stream.Responses = streamResponses[wire.LogLine](a, schemaOf[wire.LogMissing](a))
	register(a, stream, options{scope: domain.ScopeAdmin}, func(_ context.Context, in *streamLogsInput) (*huma.StreamResponse, error) {
		return streaming(func(w http.ResponseWriter, r *http.Request) error {
			from, f, err := a.logs(r.Context(), in.LogQuery)
			if err != nil {
				return err
			}
			after := cmp.Or(in.LastEventID, in.After)
			if err := from.Check(after); err != nil {
				return err
			}
			return a.Streams.Messages(w, r, "logs", func(ctx context.Context, tell ws.Tell) error {
				return from.Follow(ctx, f, after, serverlog.Listener{
					Line: func(e serverlog.Entry) error { return tell("line", e.ID, logLine(e)) },
					Missing: func(m serverlog.Missing, where string) error {
						told := logMissing(m)
						told.Type, told.ID = wire.LogsMissing, where
						return tell(wire.LogsMissing, where, told)
					},
				})
			})
		}), nil
	})
}

// logs finds where lines are, and which are meant. Tenants' names and IDs are
// among them: they are for administrators alone.
func (a *API) logs(ctx context.Context, q LogQuery) (serverlog.Source, serverlog.Filter, error) {
	f := serverlog.Filter{Service: q.Service, Host: q.Host, Text: q.Text, VM: q.VM, Request: q.Request, Trace: q.Trace, Leveled: q.Level != ""}
	if err := auth.CallerFrom(ctx).AdminsOnly(); err != nil {
		return nil, f, err
	}
	if a.Logs == nil {
		return nil, f, errors.New(errors.Unsupported, "this server keeps no lines that could be read").
			WithHint("set log.loki for those of all servers, or log.file for those of this one")
	}
	if q.Level != "" {
		if err := f.Level.UnmarshalText([]byte(q.Level)); err != nil {
			return nil, f, errors.Wrap(err, errors.InvalidArgument, "there is no such level").WithField("query.level")
		}
	}
	if q.Service != "" && !strings.HasPrefix(q.Service, servicePrefix) {
		f.Service = servicePrefix + q.Service
	}
	if !utf8.ValidString(q.Text) {
		return nil, f, errors.New(errors.InvalidArgument, "the text is not UTF-8").WithField("query.text")
	}
	var err error
	f.Since, err = moment(q.Since, "query.since", a.Now())
	return a.Logs, f, err
}

// servicePrefix begins the names of programs.
const servicePrefix = "aetherium-"

// moment reads a time, or how long ago it was. Returns InvalidArgument.
func moment(s, field string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if d, ago := time.ParseDuration(s); ago == nil && d >= 0 {
		t, err = now.Add(-d), nil
	}
	// Nanoseconds since 1970 are what stores of lines reckon in.
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return t, errors.New(errors.InvalidArgument, "this is neither a time nor how long ago one was").WithField(field).
			WithHint("such as 2026-03-04T05:06:07Z, 90s or 2h")
	}
	return t, nil
}

func (a *API) listLogs(ctx context.Context, in *listLogsInput) (*logsOutput, error) {
	from, f, err := a.logs(ctx, in.LogQuery)
	if err != nil {
		return nil, err
	}
	if f.Until, err = moment(in.Until, "query.until", a.Now()); err != nil {
		return nil, err
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return nil, errors.New(errors.InvalidArgument, "the time until which is not after that since when").WithField("query.until")
	}
	l, err := from.Read(ctx, f, serverlog.Page{Limit: in.Limit, Cursor: in.Cursor, Oldest: in.Order == "asc"})
	if err != nil {
		return nil, err
	}
	return &logsOutput{wire.LogPage{Items: mapped(l.Entries, logLine), NextCursor: l.Next, Source: from.Kind(), Missing: mapped(l.Missing, logMissing)}}, nil
}

func logLine(e serverlog.Entry) wire.LogLine {
	return wire.LogLine{
		ID: e.ID, At: e.At.UTC(), Level: e.Level, Service: e.Service, Host: e.Host, Worker: e.Worker, Message: e.Message, Fields: e.Fields, Cut: e.Cut,
	}
}

func logMissing(m serverlog.Missing) wire.LogMissing {
	return wire.LogMissing{Worker: m.Worker, Name: m.Name, Reason: string(m.Reason), Detail: m.Detail}
}
