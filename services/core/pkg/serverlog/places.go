package serverlog

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	// MaxPlace bounds cursors and IDs, in bytes. Those of so many workers as are
	// asked have room in it.
	MaxPlace = 8 << 10
	// plainPlaces is how long places may be to be told as they are.
	plainPlaces = 512
	// maxPlaces bounds what is unpacked.
	maxPlaces = 64 << 10
	// packedMark begins places that are packed. No base64 does.
	packedMark = "~"
)

// fleetPlace is between the lines of several servers: one place in each, by the
// server's key. A place that is empty is before the first line.
type fleetPlace struct {
	Of map[string]json.RawMessage `json:"s"`
	// Page: it is a listing's, whose other servers have no more. Otherwise those are
	// gone on with from a time on.
	Page bool  `json:"p,omitempty"`
	Down bool  `json:"d,omitempty"` // of a listing: the newest first
	At   int64 `json:"t,omitempty"` // nanoseconds since 1970; of a listing: nothing later is in it
}

// set notes a server's place.
func (p *fleetPlace) set(key, place string) {
	if p.Of == nil {
		p.Of = map[string]json.RawMessage{}
	}
	text, err := base64.RawURLEncoding.DecodeString(place)
	if err != nil || len(text) == 0 || text[0] != '{' || !json.Valid(text) { // another's way to note one
		text, _ = json.Marshal(place) // a string
	}
	p.Of[key] = text
}

// get gives a server's place.
func (p *fleetPlace) get(key string) (place string, known bool) {
	text, known := p.Of[key]
	if !known {
		return "", false
	}
	if json.Unmarshal(text, &place) == nil {
		return place, true
	}
	return base64.RawURLEncoding.EncodeToString(text), true
}

func (p *fleetPlace) time() time.Time {
	if p.At == 0 {
		return time.Time{}
	}
	return time.Unix(0, p.At)
}

// packer makes places into text, one after another.
type packer struct {
	to    bytes.Buffer
	flate *flate.Writer
}

func (k *packer) pack(p *fleetPlace) string {
	text, _ := json.Marshal(p) // of JSON, numbers and strings
	if len(text) <= plainPlaces {
		return base64.RawURLEncoding.EncodeToString(text)
	}
	k.to.Reset()
	if k.flate == nil {
		k.flate, _ = flate.NewWriter(&k.to, flate.BestSpeed) // there is such a level
	} else {
		k.flate.Reset(&k.to)
	}
	_, _ = k.flate.Write(text) // to memory
	_ = k.flate.Close()
	return packedMark + base64.RawURLEncoding.EncodeToString(k.to.Bytes())
}

// unpack reads a place. Returns InvalidArgument.
func unpack(s, field string) (p fleetPlace, err error) {
	if packed, is := strings.CutPrefix(s, packedMark); is && len(s) <= MaxPlace {
		text, err := base64.RawURLEncoding.DecodeString(packed)
		if err != nil {
			return p, noPlace(field)
		}
		text, err = io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(text)), maxPlaces))
		if err != nil {
			return p, noPlace(field)
		}
		s = base64.RawURLEncoding.EncodeToString(text)
	}
	if err := decode(s, field, &p); err != nil {
		return p, err
	}
	if len(p.Of) > maxPeers+1 {
		return p, noPlace(field)
	}
	return p, nil
}

func noPlace(field string) error {
	return errors.New(errors.InvalidArgument, "this is no place in these lines").WithField(field).WithHint("leave it out to begin anew")
}
