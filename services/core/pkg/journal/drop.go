package journal

import (
	"os"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

// dropOldest removes what lies in packs, or else the oldest segment.
func (j *Journal) dropOldest() error {
	if len(j.extents) > 0 {
		return j.kill(&j.extents)
	}
	oldest := j.segments[0]
	if err := os.Remove(j.store.path(j.key, oldest.base)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return ioError(err, "a journal segment cannot be removed")
	}
	j.segments = j.segments[1:]
	j.account(-oldest.size, j.modified)
	return nil
}

// kill removes packed records.
func (j *Journal) kill(list *[]extent) error {
	if err := j.store.packs.kill(*list); err != nil {
		return err
	}
	for _, e := range *list {
		j.account(-e.size(), j.modified)
	}
	*list = nil
	return nil
}

func (j *Journal) packedBytes() (n int) {
	for _, e := range j.extents {
		n += e.length
	}
	return n
}

// remove deletes the journal's files.
func (j *Journal) remove() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fail = errors.New(errors.Gone, "the output was deleted")
	j.closeFile()
	j.wake()
	j.makeRoom()
	for len(j.extents)+len(j.segments) > 0 {
		if err := j.dropOldest(); err != nil {
			return err
		}
	}
	return j.kill(&j.begin)
}
