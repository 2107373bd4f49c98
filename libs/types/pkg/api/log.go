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
	Message string                     `json:"message"`
	Fields  map[string]json.RawMessage `json:"fields,omitempty" doc:"The rest of the line, as it was logged"`
	Cut     bool                       `json:"cut,omitempty" doc:"It was too long, and some of it is missing"`
}

// LogPage is a page of lines.
type LogPage struct {
	Items      []LogLine `json:"items"`
	NextCursor string    `json:"next_cursor,omitempty" doc:"Ask with it for the next page; absent: there is none"`
	Source     string    `json:"source" enum:"loki,file" doc:"loki: lines of all servers; file: those of the server that answers alone"`
}
