package journal_test

import (
	"testing"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// BenchmarkShort is the whole life of the journal of `echo hi`.
func BenchmarkShort(b *testing.B) {
	s, err := journal.OpenStore(b.TempDir(), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		j, err := s.Open(newKey())
		if err != nil {
			b.Fatal(err)
		}
		_ = j.Append(0, domain.Stdout, []byte("hi\n"))
		if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
			b.Fatal(err)
		}
		j.Close()
	}
}

// BenchmarkBulk writes 64 KiB pieces past the bound.
func BenchmarkBulk(b *testing.B) {
	s, err := journal.OpenStore(b.TempDir(), journal.Options{MaxBytes: 16 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	j, err := s.Open(newKey())
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	piece := make([]byte, 64<<10)
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		if err := j.Append(j.NextOffset(), domain.Stdout, piece); err != nil {
			b.Fatal(err)
		}
	}
}
