package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/ws"
)

type (
	listEventsInput struct {
		After int64 `query:"after" minimum:"0" doc:"Cursor: only later ones"`
		Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	streamEventsInput struct {
		After       int64  `query:"after" minimum:"-1" default:"-1" doc:"Cursor: only later ones; 0: all that are kept; -1: from now"`
		LastEventID string `header:"Last-Event-ID" maxLength:"20" doc:"Where to go on; beats after"`
	}
	eventListOutput struct{ Body wire.EventList }
)

func (a *API) eventRoutes() {
	const tag = "Events"
	register(a, operation("list-events", http.MethodGet, "/events", tag, "List events after a cursor", "Oldest first."), options{scope: domain.ScopeRead}, a.listEvents)
	stream := operation("stream-events", http.MethodGet, "/events/stream", tag, "Follow events", "Over WebSocket or as server-sent events; Event in JSON, whose seq is the cursor. "+
		"The answer's header `"+wire.HeaderEventCursor+"`, and the `id` that server-sent events begin with, say after which event it begins: with that as `after` a stream "+
		"that ended before its first event goes on without missing one. "+
		"Where events after the cursor are no longer kept, the first is of type `gap`: its data says from which cursor to which some may have been missed.")
	stream.Responses = streamResponses[wire.Event](a)
	register(a, stream, options{scope: domain.ScopeRead}, func(ctx context.Context, in *streamEventsInput) (*huma.StreamResponse, error) {
		return streaming(func(w http.ResponseWriter, r *http.Request) error {
			return a.Streams.Events(w, r, auth.CallerFrom(ctx), in.After)
		}), nil
	})
}

func (a *API) listEvents(ctx context.Context, in *listEventsInput) (*eventListOutput, error) {
	events, err := a.VMs.ListEvents(ctx, auth.CallerFrom(ctx), in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	out := wire.EventList{Items: mapped(events, ws.Event), Last: in.After}
	if n := len(events); n > 0 {
		out.Last = events[n-1].Seq
	}
	return &eventListOutput{out}, nil
}
