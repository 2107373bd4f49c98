package guest

import (
	"encoding/binary"
	"io"
	"log/slog"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// FuzzAttachment is an agent that says anything. Whatever that is, the journal
// holds just the output that was in order, and the answer is given at once.
func FuzzAttachment(f *testing.F) {
	seed := func(ms ...*guestv1.AttachResponse) {
		var b []byte
		for _, m := range ms {
			enc, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(enc))), enc...)
		}
		f.Add(b)
	}
	start := &guestv1.AttachResponse{Response: &guestv1.AttachResponse_Started_{Started: &guestv1.AttachResponse_Started{Pid: 1}}}
	out := func(o int64, s string) *guestv1.AttachResponse {
		return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_Output_{Output: &guestv1.AttachResponse_Output{Offset: o, Stream: 1, Data: []byte(s)}}}
	}
	end := func(n int64) *guestv1.AttachResponse {
		return &guestv1.AttachResponse{Response: &guestv1.AttachResponse_End{End: &guestv1.End{OutputBytes: n}}}
	}
	seed(start, out(0, "abc"), out(3, "d"), end(4))
	seed(start, out(5, "abc"), end(2))
	seed(start, &guestv1.AttachResponse{Response: &guestv1.AttachResponse_StdinAck_{StdinAck: &guestv1.AttachResponse_StdinAck{Offset: 1 << 62}}})
	store, err := journal.OpenStore(f.TempDir(), journal.Options{MaxBytes: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = store.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Session{cfg: SessionConfig{Journals: store, VM: domain.NewID(), Log: slog.New(slog.DiscardHandler)}, gone: make(chan struct{})}
		s.ctx = t.Context()
		id := domain.NewID()
		j, err := store.Open(s.key(id))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { j.Close(); _ = store.Delete(s.key(id)) }()
		x := newExecution(s, id, j)
		defer x.cancel()
		x.start = &guestv1.Command{} // followed from its start: no gaps
		a := attachment{x: x}
		var want []byte
		for result := going; result == going && len(b) >= 2; {
			n := min(int(binary.BigEndian.Uint16(b)), len(b)-2)
			m := &guestv1.AttachResponse{}
			enc := b[2 : 2+n]
			b = b[2+n:]
			if proto.Unmarshal(enc, m) != nil {
				continue
			}
			if result, err = a.take(m); result == going && m.GetOutput() != nil {
				want = append(want, m.GetOutput().GetData()...)
			}
			if (result == lost || result == broken) != (err != nil) {
				t.Fatalf("outcome %d with error %v", result, err)
			}
		}
		if got := j.NextOffset(); got != int64(len(want)) {
			t.Fatalf("%d bytes in the journal, %d were in order", got, len(want))
		}
		r, err := j.NewReader(0, false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		var have []byte
		for {
			e, err := r.Next(t.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || e.Gap != nil {
				t.Fatalf("%+v, %v", e, err)
			}
			have = append(have, e.Data...)
		}
		if string(have) != string(want) {
			t.Fatal("the journal differs from what was said")
		}
	})
}

// FuzzClean passes on nothing that a terminal would obey.
func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J\u202e\xff\xfe")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if len(got) > 3*maxText+8 {
			t.Fatalf("%d bytes", len(got))
		}
		if clean(got) != got && len(got) <= maxText {
			t.Fatalf("%q is not clean", got)
		}
	})
}
