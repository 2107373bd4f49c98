package journal

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// Journals that have ended are carried to other stores as a stream of the records
// that packs are of. Each journal's records come together, in order, its end last.
// Where an offset does not follow, a part is missing: it was dropped.

// Pack writes journals of this store that have ended, for [Store.Unpack] of another.
// It reads ctx between frames. Returns NotFound for one that is absent, Conflict for
// one that has not ended, and w's error.
func (s *Store) Pack(ctx context.Context, w io.Writer, keys ...Key) error {
	out := bufio.NewWriter(w)
	if _, err := out.WriteString(packMagic); err != nil {
		return err
	}
	for _, k := range keys {
		if err := s.packOne(ctx, out, k); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (s *Store) packOne(ctx context.Context, w io.Writer, k Key) error {
	j, err := s.Lookup(k)
	if err != nil {
		return err
	}
	defer j.Close()
	end, ended := j.Ended()
	if !ended {
		return errors.New(errors.Conflict, "the execution has not ended")
	}
	r, err := j.NewReader(0, false)
	if err != nil {
		return err
	}
	defer r.Close()
	at := j.lastModified()
	var buf []byte
	put := func(f frame) error {
		buf = appendRecord(buf[:0], k, f, at)
		_, err := w.Write(buf)
		return err
	}
	for {
		event, err := r.Next(ctx)
		switch {
		case err != nil:
			return err
		case event.Gap != nil: // the next offset tells
		case event.End != nil:
			data, err := json.Marshal(end)
			if err != nil {
				return errors.Wrap(err, errors.Internal, "the execution's end cannot be written")
			}
			return put(frame{kind: kindEnd, offset: event.Offset, data: data})
		default:
			if err := put(frame{kind: byte(event.Stream), offset: event.Offset, data: event.Data}); err != nil {
				return err
			}
		}
	}
}

// Unpack adds what Pack wrote and is not in this store yet, whose bound for a
// journal it must not exceed, and tells which journals that were: after an error, they
// are removed again. It holds one frame in memory. Returns InvalidArgument where r has
// something else, NoSpace, and r's error.
func (s *Store) Unpack(r io.Reader) (keys []Key, err error) {
	defer func() {
		if err != nil {
			for _, k := range keys {
				err = errors.Join(err, s.Delete(k))
			}
			keys = nil
		}
	}()
	in := bufio.NewReader(r)
	magic := make([]byte, len(packMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != packMagic {
		return nil, notPacked(err)
	}
	var buf []byte
	for {
		var j *Journal
		rec, err := nextRecord(in, &buf)
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return keys, err
		}
		skip := s.has(rec.key)
		if !skip {
			keys = append(keys, rec.key)
			if j, err = s.Open(rec.key); err != nil {
				return keys, err
			}
		}
		err = unpackOne(j, rec, in, &buf)
		if j != nil {
			j.Close()
		}
		if err != nil {
			return keys, err
		}
	}
}

func (s *Store) has(k Key) bool {
	j, err := s.Lookup(k)
	if err == nil {
		j.Close()
	}
	return err == nil
}

// unpackOne reads a journal's records, of which the first was read, up to its end.
// It is added to j; nil: nowhere.
func unpackOne(j *Journal, rec record, in *bufio.Reader, buf *[]byte) error {
	key := rec.key
	for {
		if rec.key != key || rec.f.kind == kindBegin {
			return notPacked(nil)
		}
		if j != nil {
			if err := j.take(rec.f); err != nil {
				return err
			}
		}
		if rec.f.kind == kindEnd {
			return nil
		}
		var err error
		if rec, err = nextRecord(in, buf); err != nil {
			if errors.Is(err, io.EOF) {
				err = notPacked(io.ErrUnexpectedEOF)
			}
			return err
		}
	}
}

// take adds a frame of another store's journal.
func (j *Journal) take(f frame) error {
	if f.offset < j.NextOffset() {
		return notPacked(nil)
	}
	if err := j.Skip(f.offset); err != nil {
		return err
	}
	if f.kind != kindEnd {
		return j.Append(f.offset, domain.OutputStream(f.kind), f.data)
	}
	end, err := parseEnd(f.data)
	if err != nil {
		return notPacked(err)
	}
	return j.AppendEnd(end)
}

// nextRecord reads a record into buf. io.EOF where there is none.
func nextRecord(in *bufio.Reader, buf *[]byte) (record, error) {
	const head = packPrefix + frameHeader
	if cap(*buf) < head {
		*buf = make([]byte, head, 4<<10)
	}
	b := (*buf)[:head]
	if _, err := io.ReadFull(in, b); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = notPacked(err)
		}
		return record{}, err
	}
	n := int(binary.LittleEndian.Uint32(b[packPrefix+4:]))
	if n > maxFrameData {
		return record{}, notPacked(nil)
	}
	if cap(b) < head+n {
		b = append(make([]byte, 0, head+n), b...)
	}
	b = b[:head+n]
	*buf = b
	if _, err := io.ReadFull(in, b[head:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = notPacked(err)
		}
		return record{}, err
	}
	rec, ok := parseRecord(b)
	if !ok || rec.dead {
		return record{}, notPacked(nil)
	}
	return rec, nil
}

func notPacked(err error) error {
	const message = "these are no packed journals"
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New(errors.InvalidArgument, message)
	}
	var coded *errors.Error
	if errors.As(err, &coded) {
		return err
	}
	return errors.Wrap(err, errors.InvalidArgument, message)
}
