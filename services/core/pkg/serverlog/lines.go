package serverlog

import (
	"bytes"
	"io"
)

// chunk is how much of a file is looked at at a time.
const chunk = 64 << 10

// reader finds lines in a file whose memory is bounded whatever their length.
type reader struct {
	file io.ReaderAt
	buf  []byte
	from int64 // what of the file is in buf
}

func newReader(file io.ReaderAt) *reader { return &reader{file: file, buf: make([]byte, 0, chunk)} }

// load fills buf from an offset on, with n bytes at most.
func (r *reader) load(from int64, n int) error {
	r.from, r.buf = from, r.buf[:n]
	got, err := r.file.ReadAt(r.buf, from)
	r.buf = r.buf[:got]
	if err == io.EOF { //nolint:errorlint // io.ReaderAt's own
		err = nil
	}
	return err
}

// line gives the beginning of a line, valid until the next call.
func (r *reader) line(from, to int64) ([]byte, error) {
	n := min(to-from, maxLine)
	if in := from - r.from; in >= 0 && in+n <= int64(len(r.buf)) {
		return r.buf[in : in+n], nil
	}
	text := make([]byte, n)
	got, err := r.file.ReadAt(text, from)
	if err == io.EOF { //nolint:errorlint // cut meanwhile
		err = nil
	}
	return text[:got], err
}

// before gives the lines that end before an offset, the last first, until take
// says that it has enough. What no line feed ends is none.
func (r *reader) before(end int64, take func(start, end int64, line []byte) bool) error {
	feed := int64(-1) // the one that ends the line whose start is looked for
	emit := func(start int64) (bool, error) {
		text, err := r.line(start, feed)
		return err == nil && take(start, feed+1, text), err
	}
	for end > 0 {
		from := max(0, end-chunk)
		if err := r.load(from, int(end-from)); err != nil {
			return err
		}
		for i := len(r.buf); ; {
			if i = bytes.LastIndexByte(r.buf[:i], '\n'); i < 0 {
				break
			}
			if feed >= 0 {
				if more, err := emit(from + int64(i) + 1); !more {
					return err
				}
			}
			feed = from + int64(i)
		}
		end = from
	}
	if feed < 0 {
		return nil
	}
	_, err := emit(0)
	return err
}

// after gives the lines from an offset on. What no line feed ends yet is none yet.
func (r *reader) after(start int64, take func(start, end int64, line []byte) bool) error {
	for at := start; ; at += int64(len(r.buf)) {
		if err := r.load(at, chunk); err != nil || len(r.buf) == 0 {
			return err
		}
		for i := 0; ; {
			n := bytes.IndexByte(r.buf[i:], '\n')
			if n < 0 {
				break
			}
			i += n + 1
			end := at + int64(i)
			text, err := r.line(start, end-1)
			if err != nil || !take(start, end, text) {
				return err
			}
			start = end
		}
	}
}
