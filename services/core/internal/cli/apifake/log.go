package apifake

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// someLines are what a fake has logged, the newest first.
func someLines() []api.LogLine {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	return []api.LogLine{
		{ID: "line2", At: at.Add(time.Second), Level: "warn", Service: "aetherium-worker", Host: "w1", Message: "a VM is \x1b[31mslow", Fields: map[string]json.RawMessage{"vm": json.RawMessage(`"vmaaaaaaaaaaaaaaaaaa"`), "n": json.RawMessage("2")}},
		{ID: "line1", At: at, Level: "info", Service: "aetherium-gateway", Host: "g1", Message: "serving"},
	}
}

// missingFrom is whose lines a fake has not: of a trace's.
func missingFrom(r *http.Request) []api.LogMissing {
	if !r.URL.Query().Has("trace_id") {
		return nil
	}
	return []api.LogMissing{{Worker: "workerbbbbbbbbbbbbbb", Name: "w2\x1b[31m", Reason: "away", Detail: "nothing is heard of it"}}
}

func (s *Server) logRoutes(handle register) {
	meant := func(r *http.Request) []api.LogLine {
		q := r.URL.Query()
		return slices.DeleteFunc(someLines(), func(l api.LogLine) bool {
			return q.Get("level") == "warn" && l.Level != "warn" || q.Has("service") && l.Service != "aetherium-"+q.Get("service") || !strings.Contains(l.Message, q.Get("text"))
		})
	}
	handle("GET /logs", func(w http.ResponseWriter, r *http.Request) error {
		p := paged(r, meant(r))
		writeJSON(w, http.StatusOK, api.LogPage{Items: p.Items, NextCursor: p.NextCursor, Source: "fleet", Missing: missingFrom(r)})
		return nil
	})
	handle("GET /logs/stream", func(w http.ResponseWriter, r *http.Request) error {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{api.Subprotocol}})
		if err != nil {
			return nil
		}
		defer func() { _ = ws.CloseNow() }()
		for _, m := range missingFrom(r) {
			m.Type, m.ID = api.LogsMissing, "line0"
			text, err := json.Marshal(m)
			if err != nil || ws.Write(r.Context(), websocket.MessageText, text) != nil {
				return nil
			}
		}
		for _, l := range slices.Backward(meant(r)) {
			text, err := json.Marshal(l)
			if err != nil || ws.Write(r.Context(), websocket.MessageText, text) != nil {
				return nil
			}
		}
		text, err := json.Marshal(api.ServerControl{Type: api.ControlError, Code: string(errors.PermissionDenied), Message: "the key is no administrator's any more"})
		if err == nil {
			_ = ws.Write(r.Context(), websocket.MessageText, text)
		}
		return nil
	})
}
