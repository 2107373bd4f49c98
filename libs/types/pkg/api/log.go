package api

import (
	"encoding/json"
	"time"
)

// LogLine is a line that a server has logged.
type LogLine struct {
	ID      string                     `json:"id" doc:"Where it is; to go on behind it, for Last-Event-ID"`
	At      time.Time                  `json:"at"`
	Level   string                     `json:"level" example:"warn"`
	Service string                     `json:"service" doc:"The program" example:"aetherium-worker"`
	Host    string                     `json:"host,omitempty"`
	Worker  string                     `json:"worker,omitempty" doc:"ID of the worker that it is of, where workers were asked"`
	Message string                     `json:"message"`
	Fields  map[string]json.RawMessage `json:"fields,omitempty" doc:"The rest of the line, as it was logged"`
	Cut     bool                       `json:"cut,omitempty" doc:"It was too long, and some of it is missing"`
}

// LogPage is a page of lines.
type LogPage struct {
	Items      []LogLine `json:"items"`
	NextCursor string    `json:"next_cursor,omitempty" doc:"Ask with it for the next page; absent: there is none"`
	Source     string    `json:"source" enum:"loki,fleet,file" doc:"loki: lines of all servers; fleet: those of the gateway that answers and of all workers; file: those of the server that answers alone"`
	// Missing is whoever was to be asked, and has not answered.
	Missing []LogMissing `json:"missing,omitempty" doc:"Servers whose lines are not in the answer, and why"`
}

// LogsMissing is the type of a LogMissing in a stream.
const LogsMissing = "missing"

// LogMissing is a server whose lines are missing, and why.
type LogMissing struct {
	Type   string `json:"type,omitempty" enum:"missing" doc:"In a stream"`
	ID     string `json:"id,omitempty" doc:"In a stream: to go on there, for Last-Event-ID"`
	Worker string `json:"worker,omitempty" doc:"ID of the worker"`
	Name   string `json:"name"`
	Reason string `json:"reason" enum:"away,unreachable,slow,old_version,no_file,unknown,too_many,failed" doc:"away: nothing is heard of it; slow: it has not answered in time; old_version: it has to be updated; no_file: it is not set to log to one; unknown: it is no more, or another gateway was asked before"`
	Detail string `json:"detail,omitempty"`
}
