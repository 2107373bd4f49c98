package sqlrepo

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"
)

// The types below sit between Go values and columns. Each is used as an
// argument by value and as a scan destination by pointer to what it wraps.

// micros keeps a time as microseconds.
func micros(t time.Time) int64 { return t.UnixMicro() }

// optMicros keeps an optional time; nil is NULL.
func optMicros(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.UnixMicro()
}

// optInt keeps an optional number; nil is NULL.
func optInt(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

type scanTime struct{ to *time.Time }

func (s scanTime) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a time is stored as %T", src)
	}
	*s.to = time.UnixMicro(n).UTC()
	return nil
}

type scanOptTime struct{ to **time.Time }

func (s scanOptTime) Scan(src any) error {
	if src == nil {
		*s.to = nil
		return nil
	}
	var t time.Time
	if err := (scanTime{&t}).Scan(src); err != nil {
		return err
	}
	*s.to = &t
	return nil
}

type scanDuration struct{ to *time.Duration }

func (s scanDuration) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a duration is stored as %T", src)
	}
	*s.to = time.Duration(n) * time.Microsecond
	return nil
}

// jsonText keeps a value as JSON text.
type jsonText struct{ v any }

func (j jsonText) Value() (driver.Value, error) {
	b, err := json.Marshal(j.v)
	return string(b), err
}

func (j jsonText) Scan(src any) error {
	switch s := src.(type) {
	case string:
		return json.Unmarshal([]byte(s), j.v)
	case []byte:
		return json.Unmarshal(s, j.v)
	}
	return fmt.Errorf("JSON is stored as %T", src)
}

// optJSON keeps an optional value; nil is NULL.
func optJSON[T any](v *T) any {
	if v == nil {
		return nil
	}
	return jsonText{v}
}

type scanOptJSON[T any] struct{ to **T }

func (s scanOptJSON[T]) Scan(src any) error {
	if src == nil {
		*s.to = nil
		return nil
	}
	v := new(T)
	if err := (jsonText{v}).Scan(src); err != nil {
		return err
	}
	*s.to = v
	return nil
}

// rawJSON keeps JSON as it is given; nil is the empty text.
func rawJSON(m json.RawMessage) string { return string(m) }

type scanRawJSON struct{ to *json.RawMessage }

func (s scanRawJSON) Scan(src any) error {
	switch v := src.(type) {
	case string:
		*s.to = nil
		if v != "" {
			*s.to = json.RawMessage(v)
		}
		return nil
	case []byte:
		*s.to = append(json.RawMessage(nil), v...)
		return nil
	}
	return fmt.Errorf("JSON is stored as %T", src)
}

// flag keeps a boolean as 0 or 1.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

type scanFlag struct{ to *bool }

func (s scanFlag) Scan(src any) error {
	n, ok := src.(int64)
	if !ok {
		return fmt.Errorf("a boolean is stored as %T", src)
	}
	*s.to = n != 0
	return nil
}

// blob keeps bytes; empty ones are NULL.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}
