package egresslog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// maxLine bounds an entry that is read: netd, which reads what machines send,
// writes the files, and the reader has more rights.
const maxLine = 16 << 10

// Read gives a machine's entries after a number, oldest first, at most limit
// of them. A machine without a log has none. Returns InvalidArgument for what
// is no ID.
func Read(dir, id string, after int64, limit int) ([]domain.EgressEntry, error) {
	if !idForm.MatchString(id) {
		return nil, errors.New(errors.InvalidArgument, "this is not a machine ID")
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Wrap(err, errors.Unavailable, "cannot open the directory of egress logs")
	}
	defer func() { _ = root.Close() }()
	var out []domain.EgressEntry
	for range 2 {
		out = out[:0]
		var files [2]os.FileInfo
		for i, name := range []string{older(id), current(id)} {
			if files[i], out, err = readFile(root, name, after, limit, out); err != nil {
				return nil, errors.Wrap(err, errors.Unavailable, "cannot read an egress log")
			}
		}
		// A file that was turned over meanwhile was read twice or not at all.
		if now, err := root.Stat(current(id)); err != nil || files[1] == nil || os.SameFile(now, files[1]) {
			break
		}
	}
	return out, nil
}

func readFile(root *os.Root, name string, after int64, limit int, out []domain.EgressEntry) (os.FileInfo, []domain.EgressEntry, error) {
	// Not a FIFO, on which opening would wait, nor a link.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, out, nil
	}
	if err != nil {
		return nil, out, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil, out, err
	}
	r := bufio.NewReaderSize(io.LimitReader(f, st.Size()), maxLine)
	for len(out) < limit {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue // no entry
		case errors.Is(err, io.EOF):
			return st, out, nil // what is behind the last line end is being written
		case err != nil:
			return st, out, err
		}
		if seq, ok := seqOf(line); ok && seq <= after {
			continue
		}
		var e domain.EgressEntry
		if json.Unmarshal(line, &e) == nil && e.Seq > after {
			out = append(out, e)
		}
	}
	return st, out, nil
}

// seqOf gives the number of an entry as the writer puts it, without the cost
// of reading the rest: who follows a log looks at each change for what is new.
func seqOf(line []byte) (seq int64, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte{','})
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseInt(string(digits), 10, 64)
	return seq, err == nil
}

// Remove removes a machine's log; absent is success. Who writes it must have
// been told to forget it.
func Remove(dir, id string) error {
	if !idForm.MatchString(id) {
		return errors.New(errors.InvalidArgument, "this is not a machine ID")
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot open the directory of egress logs")
	}
	defer func() { _ = root.Close() }()
	for _, name := range []string{older(id), current(id)} {
		if rerr := root.Remove(name); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil {
		return errors.Wrap(err, errors.Unavailable, "cannot remove an egress log")
	}
	return nil
}
