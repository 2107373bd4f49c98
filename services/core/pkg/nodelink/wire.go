package nodelink

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// Prefix is where a node's calls are.
	Prefix = "/node/v1/"

	// maxLine bounds what a call is given or answers, in bytes.
	maxLine = 64 << 20

	errorTrailer = "Aetherium-Error"
	upgrade      = "aetherium-dial"
)

// failure is an error on the wire. The cause of an error does not leave the
// process that it is of.
type failure struct {
	Code         errors.Code `json:"code"`
	Message      string      `json:"message"`
	Hint         string      `json:"hint,omitempty"`
	Field        string      `json:"field,omitempty"`
	RetryAfterMS int64       `json:"retry_after_ms,omitempty"`
}

func toWire(err error) failure {
	e := errors.Public(err)
	return failure{Code: e.Code, Message: e.Message, Hint: e.Hint, Field: e.Field, RetryAfterMS: e.RetryAfter.Milliseconds()}
}

func (f failure) error() error {
	return &errors.Error{
		Code: f.Code, Message: f.Message, Hint: f.Hint, Field: f.Field, RetryAfter: time.Duration(f.RetryAfterMS) * time.Millisecond,
	}
}

// setTrailer tells of an error behind the first byte.
func setTrailer(h http.Header, err error) {
	text, jerr := json.Marshal(toWire(err))
	if jerr != nil {
		text = []byte(`{"code":"internal"}`)
	}
	h.Set(http.TrailerPrefix+errorTrailer, base64.StdEncoding.EncodeToString(text))
}

// trailed is the error that a trailer tells of; nil: none.
func trailed(h http.Header) error {
	coded := h.Get(errorTrailer)
	if coded == "" {
		return nil
	}
	var f failure
	text, err := base64.StdEncoding.DecodeString(coded)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil || f.Code == "" {
		return garbled(err)
	}
	return f.error()
}

// readLine reads the line of JSON that is before everything else.
func readLine(r *bufio.Reader, into any) error {
	var line []byte
	for {
		piece, err := r.ReadSlice('\n')
		line = append(line, piece...)
		switch {
		case err == nil:
			return json.Unmarshal(line, into)
		case len(line) > maxLine:
			return errors.New(errors.TooLarge, "what a node was told has more than %d bytes", maxLine)
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull: //nolint:errorlint // returned bare
			return err
		}
	}
}

// line is a value as the line that it is sent as.
func line(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "a call to a node cannot be written down")
	}
	return append(text, '\n'), nil
}

func garbled(err error) error {
	return errors.Wrap(err, errors.Unavailable, "the worker's answer is not understood").WithHint("do gateway and worker have versions that fit?")
}

// none is what a call without arguments is given, and what one without a result answers.
type none struct{}
