package journal

import (
	"encoding/json"
	"os"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

// load looks at a journal that an earlier process wrote: it finds the last
// whole frame, cuts off what is behind it, and learns the next offset and the
// end. Only the last segment is read; the ones before it are complete.
func (j *Journal) load() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.loaded || len(j.segments) == 0 {
		j.loaded = true
		return j.fail
	}
	last := j.segments[len(j.segments)-1]
	path := j.store.path(j.key, last.base)
	data, err := os.ReadFile(path)
	if err != nil {
		return ioError(err, "the journal cannot be read")
	}
	t := scanTail(data, last.base)
	if t.size < int64(len(data)) {
		if err := os.Truncate(path, t.size); err != nil {
			return ioError(err, "the journal's torn end cannot be cut off")
		}
	}
	j.bytes += t.size - last.size
	j.store.bytes.Add(t.size - last.size)
	last.size = t.size
	j.next, j.end = t.next, t.end
	j.loaded = true
	return j.fail
}

type tail struct {
	size int64 // up to where the segment is whole
	next int64
	end  *domain.ExecutionEnd
}

// scanTail reads a segment that begins at base up to its last whole frame.
func scanTail(data []byte, base int64) tail {
	t := tail{next: base}
	if len(data) < len(magic) || string(data[:len(magic)]) != magic {
		return t
	}
	t.size = int64(len(magic))
	for t.end == nil {
		f, v := parseFrame(data[t.size:])
		if v != whole || f.offset != t.next {
			break
		}
		if f.kind == kindEnd {
			end, err := parseEnd(f.data)
			if err != nil {
				break
			}
			t.end = &end
		} else {
			t.next += int64(len(f.data))
		}
		t.size += int64(f.size())
	}
	return t
}

func parseEnd(data []byte) (domain.ExecutionEnd, error) {
	var end domain.ExecutionEnd
	if err := json.Unmarshal(data, &end); err != nil {
		return end, errors.Wrap(err, errors.Internal, "the execution's end cannot be read")
	}
	return end, nil
}
