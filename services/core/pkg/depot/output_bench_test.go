package depot_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/blob"
	"github.com/aetherium/aetherium/services/core/pkg/depot"
	"github.com/aetherium/aetherium/services/core/pkg/journal"
)

// BenchmarkOutput stores what a thousand short commands wrote, as so many objects of
// so many bytes.
func BenchmarkOutput(b *testing.B) {
	const commands = 1000
	journals, err := journal.OpenStore(b.TempDir(), journal.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = journals.Close() }()
	var keys []journal.Key
	raw := 0
	for i := range commands {
		k := journal.Key{VM: domain.NewID(), Epoch: 1, Execution: domain.NewID()}
		j, err := journals.Open(k)
		if err != nil {
			b.Fatal(err)
		}
		for n := range 12 { // as tests print it
			line := fmt.Appendf(nil, "ok  \texample.org/module/pkg/part%d\t%d.%03ds\tcoverage: %d.%d%% of statements\n", n, i%7, (i*37+n*101)%1000, (i+n)%100, n)
			raw += len(line)
			if err := j.Append(j.NextOffset(), domain.Stdout, line); err != nil {
				b.Fatal(err)
			}
		}
		if err := j.AppendEnd(domain.ExecutionEnd{}); err != nil {
			b.Fatal(err)
		}
		j.Close()
		keys = append(keys, k)
	}
	for _, at := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("%d together", at), func(b *testing.B) {
			blobs, err := blob.OpenDir(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			o := depot.NewOutput(blobs, b.TempDir())
			var objects, size int64
			for b.Loop() {
				objects, size = 0, 0
				for i := 0; i < len(keys); i += at {
					p, err := o.Send(b.Context(), seal.NewStreamKey(), "place", func(w io.Writer) error { return journals.Pack(b.Context(), w, keys[i:i+at]...) })
					if err != nil {
						b.Fatal(err)
					}
					objects, size = objects+1, size+p.Bytes
				}
			}
			b.ReportMetric(float64(raw), "output-bytes")
			b.ReportMetric(float64(objects), "objects")
			b.ReportMetric(float64(size), "object-bytes")
		})
	}
}
